"""Read pictures of any size and mode."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffmedseg.reading.levels import Note, to_eight_bit
from diffmedseg.reading.opening import PictureError, open_image
from diffmedseg.reading.png import check_rows
from diffmedseg.reading.windows import CropWindow, check_inside


@dataclass(frozen=True)
class Picture:
    """An upright picture on the model's grid, with the size and orientation of its file.

    Attributes:
        image: (C, H, W), uint8 in [0, 255], on the model's grid.
        size: Height and width of the file's own grid.
        orientation: EXIF orientation of the file, 1 to 8; 1 is upright.
        notes: Remarks for the user on how it was read.
    """

    image: Tensor
    size: tuple[int, int]
    orientation: int
    notes: tuple[Note, ...]

    @property
    def note(self) -> str:
        """The texts of the notes; often empty."""
        return "; ".join(note.text for note in self.notes)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width as viewers show it."""
        return self.size if self.orientation < 5 else self.size[::-1]


def read_picture(
    path: Path,
    channels: int,
    grid: tuple[int, int],
    value_range: tuple[float, float] | None = None,
    window: CropWindow | None = None,
) -> Picture:
    """Read a picture for a model, and turn it upright. Training, evaluation and prediction use this function.

    Colour models see grey pictures as three equal channels; grey models see the luminance of colour pictures.
    Transparency and colour profiles are ignored.

    Args:
        path: The file.
        channels: 1 or 3.
        grid: (H, W) of the model's grid; the aspect is not kept.
        value_range: Values that become black and white in pictures of more than 8 bits; see
            :func:`~diffmedseg.reading.levels.to_eight_bit`.
        window: The part of the picture to read; None for all.

    Raises:
        DataError: If the picture cannot be read, or the window is not in it; names the file.
    """
    with open_image(path) as opened:
        if opened.format == "PNG":
            check_rows(path)
        picture = to_eight_bit(opened, value_range)
        if window is not None:
            if picture.orientation != 1:
                raise PictureError(
                    "it is not upright by its EXIF orientation, and windows need upright files: save it upright"
                )
            check_inside(window, picture.size, f"{path}: its window")
        shrunk = shrink_image(picture.image, grid if picture.turn < 5 else grid[::-1], window)
    small = turn_upright(torch.from_numpy(shrunk), picture.turn)
    return Picture(to_grey(small) if channels == 1 else small, picture.size, picture.orientation, picture.notes)


def to_grey(image: Tensor) -> Tensor:
    """Return the luminance of a picture (3, H, W), uint8, as (1, H, W)."""
    grey = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).convert("L")
    return torch.from_numpy(np.array(grey))[None]


def turn_upright(image: Tensor, orientation: int) -> Tensor:
    """Apply an EXIF orientation to (..., H, W), as viewers do."""
    if orientation in (5, 7):
        image = image.transpose(-2, -1)
    if orientation in (2, 4):
        return image.flip(-1 if orientation == 2 else -2)
    quarters = {3: 2, 6: -1, 7: 2, 8: 1}  # counter-clockwise
    return torch.rot90(image, quarters.get(orientation, 0), (-2, -1))


def turn_back(image: Tensor, orientation: int) -> Tensor:
    """Undo :func:`turn_upright`."""
    return turn_upright(image, {6: 8, 8: 6}.get(orientation, orientation))


def read_upright(
    path: Path, longest: int, value_range: tuple[float, float] | None, window: CropWindow | None = None
) -> Image.Image:
    """Read a picture, or a window of it, to be looked at: RGB, upright, at most ``longest`` pixels wide and high.

    Raises:
        DataError: If it cannot be read; names the file.
    """
    with open_image(path) as opened:
        if window is None:
            opened.draft("RGB", (longest, longest))
        picture = to_eight_bit(opened, value_range)
        small = picture.image if picture.image.mode in {"L", "RGB"} else picture.image.convert("RGB")
        if window is not None:
            right, bottom = window.left + window.width, window.top + window.height
            small = small.crop((window.left, window.top, right, bottom))
        small.load()  # a JPEG would be shrunk twice
        small.thumbnail((longest, longest))  # before it becomes RGB: a large picture is held once
        small = small.convert("RGB")
    upright = turn_upright(torch.from_numpy(np.array(small)).permute(2, 0, 1), picture.turn)
    return Image.fromarray(upright.permute(1, 2, 0).contiguous().numpy())


def shrink_image(image: Image.Image, size: tuple[int, int], window: CropWindow | None = None) -> NDArray[np.uint8]:
    """Shrink an opened picture of 8 bits, or a window of it, to (3, H, W) uint8, antialiased."""
    height, width = size
    native_width, native_height = image.size
    visible = window or CropWindow(0, 0, native_width, native_height)
    # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size; the visible part stays at least twice as large as the grid. The
    # box is the area of the whole picture in the decoded one (as in PIL.Image.Image.thumbnail).
    smallest_draft = -(-2 * width * native_width // visible.width), -(-2 * height * native_height // visible.height)
    draft = image.draft("RGB", smallest_draft)
    box: tuple[float, float, float, float] | None = None if draft is None else draft[1]
    if window is not None:
        across, down = (1.0, 1.0) if box is None else (box[2] / native_width, box[3] / native_height)
        right, bottom = window.left + window.width, window.top + window.height
        box = window.left * across, window.top * down, right * across, bottom * down
    small = [
        np.asarray(part.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0))
        for part in _colours(image)
    ]
    return np.ascontiguousarray(np.broadcast_to(np.dstack(small).transpose(2, 0, 1), (3, height, width)))


def _colours(image: Image.Image) -> Iterator[Image.Image]:
    """Yield the colours of a picture, together or one by one, so that a large picture is in memory only once."""
    if image.mode in {"L", "RGB"}:
        yield image
    elif image.mode == "1":
        yield image.convert("L")
    elif image.mode in {"LA", "RGBA", "RGBX"}:
        yield from (image.getchannel(number) for number in range(1 if image.mode == "LA" else 3))
    else:
        yield image.convert("RGB")
