"""Windows of pictures."""

from typing import TYPE_CHECKING, NamedTuple

from diffmedseg.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class CropWindow(NamedTuple):
    """The part of an image that a model sees, in pixels of the image. It may reach beyond the image."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def crop(self, values: "np.ndarray") -> "np.ndarray":
        """Cut the window out of (..., H, W)."""
        return values[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def place(self, maps: "Tensor", size: tuple[int, int]) -> "Tensor":
        """Place maps of the window, (..., height, width), in an image of ``size`` (height, width), 0 elsewhere."""
        import torch.nn.functional as F

        right, bottom = size[1] - self.left - self.width, size[0] - self.top - self.height
        return F.pad(maps, (self.left, right, self.top, bottom))  # a negative number crops

    def cut(self, maps: "Tensor", background: float) -> "Tensor":
        """Cut the window out of maps (..., H, W). What lies beyond the image becomes background."""
        import torch.nn.functional as F

        right, bottom = self.left + self.width - maps.shape[-1], self.top + self.height - maps.shape[-2]
        return F.pad(maps, (-self.left, right, -self.top, bottom), value=background)


def square_window(size: tuple[int, int], spacing: tuple[float, float], grid: tuple[int, int]) -> CropWindow | None:
    """Return the smallest window around an image that makes the pixels of a model's grid square.

    Args:
        size: Height and width of the image.
        spacing: Distance of its rows and columns, in mm.
        grid: Height and width of the grid.

    Returns:
        The window, with the image in its middle. Its sides are whole pixels of the image. None if the image fills the
        grid as it is.
    """
    rows, columns = size
    side = max(length * mm / pixels for length, mm, pixels in zip(size, spacing, grid, strict=True))  # mm
    height, width = (
        max(round(side * pixels / mm), length) for length, mm, pixels in zip(size, spacing, grid, strict=True)
    )
    if (height, width) == size:
        return None
    return CropWindow(-((width - columns) // 2), -((height - rows) // 2), width, height)


def check_inside(window: CropWindow, size: tuple[int, int], what: str) -> None:
    """Refuse a window that reaches beyond its picture.

    Raises:
        DataError: If the window reaches beyond the picture. The message begins with ``what``.
    """
    (height, width), right, bottom = size, window.left + window.width, window.top + window.height
    if right > width or bottom > height:
        raise DataError(f"{what} ends at column {right}, row {bottom}; the picture is {width} x {height} pixels.")
