"""Windows of pictures."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffmedseg.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class CropWindow(NamedTuple):
    """The part of a picture that a model sees, in pixels of the picture."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def crop(self, values: np.ndarray) -> np.ndarray:
        """Cut the window out of (..., H, W)."""
        return values[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def place(self, maps: "Tensor", size: tuple[int, int]) -> "Tensor":
        """Pad maps of the window, (..., height, width), with 0 to a picture of ``size`` (height, width)."""
        import torch.nn.functional as F

        right, bottom = size[1] - self.left - self.width, size[0] - self.top - self.height
        return F.pad(maps, (self.left, right, self.top, bottom))


def check_inside(window: CropWindow, size: tuple[int, int], what: str) -> None:
    """Refuse a window that reaches beyond its picture.

    Raises:
        DataError: If it does. The message begins with ``what``.
    """
    (height, width), right, bottom = size, window.left + window.width, window.top + window.height
    if right > width or bottom > height:
        raise DataError(f"{what} ends at column {right}, row {bottom}; the picture is {width} x {height} pixels.")
