"""Reading pictures of any size and mode."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from torch import Tensor

from diffmedseg.errors import DataError
from diffmedseg.reading.opening import open_picture
from diffmedseg.reading.windows import CropWindow, check_inside

_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_TWELVE_BIT_LEVELS = 2**12


@dataclass(frozen=True)
class Picture:
    """A picture on the model's grid, upright, and what is needed to lay results over its file.

    Attributes:
        image: (C, H, W), uint8 in [0, 255], on the model's grid.
        size: Height and width of the file's own grid.
        orientation: EXIF orientation of the file, 1 to 8; 1 is upright.
        note: What the user should know of how it was read; often empty.
    """

    image: Tensor
    size: tuple[int, int]
    orientation: int
    note: str


def read_picture(
    path: Path,
    channels: int,
    grid: tuple[int, int],
    value_range: tuple[float, float] | None = None,
    window: CropWindow | None = None,
) -> Picture:
    """Read a picture as the models' training data is read, and turn it upright.

    Colour models see grey pictures as three equal channels, grey ones see the luminance of colour. Transparency and
    colour profiles are ignored.

    Args:
        path: The file.
        channels: 1 or 3.
        grid: (H, W) of the model's grid; the aspect is not kept.
        value_range: What becomes black and white in pictures of more than 8 bits; None for 0 to 65,535 where they have
            16 bits.
        window: The part of it that is read; None for all.

    Raises:
        DataError: If it cannot be read, or the window is not in it; the message does not name the file.
    """
    with open_picture(path) as opened:
        sixteen_bit_colour = opened.mode == "RGB" and ";16" in str(
            getattr(opened, "tile", "")
        )  # gone once it is loaded
        orientation, turn = _orientation(opened)
        size = (opened.height, opened.width) if (orientation < 5) == (turn < 5) else (opened.width, opened.height)
        if window is not None:
            _check_window(window, size, orientation)
        image, note = _to_eight_bit(opened, value_range)
        if sixteen_bit_colour:
            note = _check_sixteen_bit_colour(image, value_range)
        small = torch.from_numpy(shrink_image(image, grid if turn < 5 else grid[::-1], window).copy())
    small = turn_upright(small, turn)
    if channels == 1:
        grey = Image.fromarray(small.permute(1, 2, 0).numpy()).convert("L")
        small = torch.from_numpy(np.array(grey))[None]
    return Picture(small, size, orientation, note)


def _check_window(window: CropWindow, size: tuple[int, int], orientation: int) -> None:
    if orientation != 1:
        raise DataError("it is turned by its EXIF orientation, and windows are for upright files: save it upright")
    check_inside(window, size, "its window")


def _orientation(image: Image.Image) -> tuple[int, int]:
    """Return the EXIF orientation of a file, and that of what Pillow decodes."""
    orientation = image.getexif().get(Base.Orientation, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    if image.format != "TIFF":
        return orientation, orientation
    image.load()  # turns it upright, which may swap width and height
    return orientation, 1


def _to_eight_bit(image: Image.Image, value_range: tuple[float, float] | None) -> tuple[Image.Image, str]:
    """Scale a picture of more than 8 bits; others stay as they are."""
    if image.mode not in _SIXTEEN_BIT | {"I", "F"}:
        return image, ""
    values: NDArray[np.float32] = np.asarray(image, dtype=np.float32)
    note = ""
    if value_range is None:
        if image.mode not in _SIXTEEN_BIT:
            raise DataError(
                f"its values span {values.min():g} to {values.max():g}, and which of them are black and white is not "
                "known: give --range LOW HIGH"
            )
        value_range = (0, 65535)
        if values.max() < _TWELVE_BIT_LEVELS:
            note = f"16 bits, but nothing above {values.max():g}: almost black. If it has 12 bits give --range 0 4095"
    low, high = value_range
    scaled = (values - low) * (255 / (high - low))
    return Image.fromarray(np.nan_to_num(scaled.round().clip(0, 255)).astype(np.uint8)), note


def _check_sixteen_bit_colour(image: Image.Image, value_range: tuple[float, float] | None) -> str:
    """Say what comes of a colour picture of 16 bits, of which Pillow keeps the upper eight."""
    if value_range is not None:
        raise DataError("Pillow reads 16 bits per colour as 8, so --range cannot apply: convert it to 8 bits")
    black = image.convert("L").point(lambda level: 255 * (level >= _TWELVE_BIT_LEVELS // 256)).getbbox() is None
    return "16 bits per colour, but almost black: if it has 12 bits, convert it to 8" if black else ""


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
    """Read a picture, or a window of it, to be looked at: RGB, upright, at most ``longest`` pixels wide and high."""
    with open_picture(path) as opened:
        _, turn = _orientation(opened)
        if window is None:
            opened.draft("RGB", (longest, longest))
        image, _ = _to_eight_bit(opened, value_range)
        if window is not None:
            right, bottom = window.left + window.width, window.top + window.height
            image = image.crop((window.left, window.top, right, bottom))
        small = image.convert("RGB")
        small.thumbnail((longest, longest))
    upright = turn_upright(torch.from_numpy(np.array(small)).permute(2, 0, 1), turn)
    return Image.fromarray(upright.permute(1, 2, 0).contiguous().numpy())


def shrink_image(image: Image.Image, size: tuple[int, int], window: CropWindow | None = None) -> NDArray[np.uint8]:
    """Shrink an opened image, or a window of it, to (3, H, W) uint8, antialiased."""
    height, width = size
    native_width, native_height = image.size
    seen = window or CropWindow(0, 0, native_width, native_height)
    # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, but what is seen no smaller than twice the grid; the box is
    # where the image lies in that (as in PIL.Image.Image.thumbnail).
    least = -(-2 * width * native_width // seen.width), -(-2 * height * native_height // seen.height)
    draft = image.draft("RGB", least)
    box: tuple[float, float, float, float] | None = None if draft is None else draft[1]
    if window is not None:
        across, down = (1.0, 1.0) if box is None else (box[2] / native_width, box[3] / native_height)
        right, bottom = window.left + window.width, window.top + window.height
        box = window.left * across, window.top * down, right * across, bottom * down
    small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    return np.asarray(small).transpose(2, 0, 1)
