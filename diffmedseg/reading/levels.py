"""Convert pictures of any mode and bit depth to 8 bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffTags import TAGS_V2

from diffmedseg.reading.opening import PictureError, exif_orientation

_TAG = {info.name: number for number, info in TAGS_V2.items()}
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_TWELVE_BIT_LEVELS = 2**12
_STRIP = 2**20  # pixels that are scaled at a time: a large picture is never held as float
_SAY_WHICH = "--range LOW HIGH (range for a data set, value_range for a model)"


class Note(NamedTuple):
    """A remark for the user on how a picture was read.

    Attributes:
        kind: One word or two, for programs.
        text: For people.
        serious: Whether results are likely to be useless.
    """

    kind: str
    text: str
    serious: bool


@dataclass(frozen=True)
class EightBit:
    """A picture of 8 bits per channel.

    Attributes:
        image: In any of Pillow's modes of 8 bits; a JPEG is not decoded yet.
        size: Height and width of the file's own grid.
        orientation: EXIF orientation of the file, 1 to 8; 1 is upright.
        turn: EXIF orientation of ``image``; it may differ from the file's.
        notes: Remarks for the user.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int
    turn: int
    notes: tuple[Note, ...]


def to_eight_bit(image: Image.Image, value_range: tuple[float, float] | None = None) -> EightBit:
    """Convert an opened picture to 8 bits per channel. A picture of 8 bits is returned unchanged.

    Transparency and colour profiles are ignored. A note tells if the picture is partly transparent.

    Args:
        image: The picture.
        value_range: Values that become black and white in grey pictures of more than 8 bits; white and black if the
            file says that white is zero. None is 0 to 65,535 for 16 bits. NaN becomes black.

    Raises:
        PictureError: If the picture has more than 8 bits, and its values of black and white are not known.
    """
    wide_colour = has_wide_colour(image)  # decoding forgets it
    orientation, turn = exif_orientation(image)
    turned = (orientation < 5) != (turn < 5)
    size = (image.width, image.height) if turned else (image.height, image.width)
    if image.mode in _SIXTEEN_BIT | {"I", "F"} or _is_signed(image):
        image, notes = _scale(image, value_range)
    else:
        image = image.convert(_PREMULTIPLIED[image.mode]) if image.mode in _PREMULTIPLIED else image
        notes = _check_wide_colour(image, value_range) if wide_colour else []
    if _is_transparent(image):
        text = "it is partly transparent, which is ignored: save it without transparency, so that you see what is read"
        notes.append(Note("transparent picture", text, serious=False))
    return EightBit(image, size, orientation, turn, tuple(notes))


def _tag(image: Image.Image, name: str) -> tuple[int, ...]:
    """Return the values of a TIFF's tag; an empty tuple for other files."""
    values = getattr(image, "tag_v2", {}).get(_TAG[name], ())
    return values if isinstance(values, tuple) else (values,)


def has_wide_colour(image: Image.Image) -> bool:
    """Return whether a picture has colours of 16 bits per channel; Pillow keeps the upper 8 bits.

    Call it before the picture is decoded.

    Raises:
        PictureError: If Pillow would read each of the two bytes as a pixel.
    """
    if image.mode in _SIXTEEN_BIT | {"I", "F"}:
        return False
    parts = getattr(image, "tile", [])
    if any(";16" in str(part) for part in parts):
        return True
    if parts and max(_tag(image, "BitsPerSample"), default=8) > 8:
        raise PictureError("it has 16 bits per colour in planes, which Pillow reads wrongly: convert it to 8 bits")
    return False


def _check_wide_colour(image: Image.Image, value_range: tuple[float, float] | None) -> list[Note]:
    """Return a note if the upper 8 of 16 bits per channel are almost black."""
    if value_range == (0, 65535):
        return []
    if value_range is not None:
        raise PictureError(
            "it has 16 bits per colour, which Pillow reads as 8, so --range cannot apply: convert it to 8 bits"
        )
    colours = (image.getchannel(number) for number in range(1 if image.mode in {"L", "LA"} else 3))
    if any(any(colour.histogram()[_TWELVE_BIT_LEVELS // 256 :]) for colour in colours):
        return []
    text = "it has 16 bits per colour, but is almost black: if it has 12 bits, convert it to 8"
    return [Note("dark picture", text, serious=True)]


def says_white_is_zero(image: Image.Image) -> bool:
    """Return whether a TIFF says that white is zero. Pillow has inverted pictures of up to 8 bits already."""
    return _tag(image, "PhotometricInterpretation") == (0,)


def _is_signed(image: Image.Image) -> bool:
    return image.mode == "L" and _tag(image, "SampleFormat") == (2,)


def _scale(image: Image.Image, value_range: tuple[float, float] | None) -> tuple[Image.Image, list[Note]]:
    """Scale a grey picture of more than 8 bits, or of signed values."""
    notes: list[Note] = []
    white_is_zero = says_white_is_zero(image)
    least, most = _span(image)
    if np.isnan(least):
        raise PictureError("it holds only NaN: export it again")
    if value_range is None:
        if not (image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PPM")):
            raise PictureError(
                f"it has values from {least:g} to {most:g}, and its values of black and white are unknown: give "
                f"{_SAY_WHICH}"
            )
        value_range = (0, 65535)
        if most < _TWELVE_BIT_LEVELS:
            text = (
                f"it has 16 bits, but nothing above {most:g}: almost {'white' if white_is_zero else 'black'}. Give "
                f"--range 0 {_TWELVE_BIT_LEVELS - 1} if it has 12 bits, --range 0 65535 if it is really dark "
                "(range for a data set, value_range for a model)"
            )
            notes.append(Note("dark picture", text, serious=True))
    low, high = value_range
    if least > high or most < low:
        text = f"its values, {least:g} to {most:g}, are all outside of the range {low:g} to {high:g}: check the range"
        notes.append(Note("out-of-range picture", text, serious=False))
    black, factor = (high, 255 / (low - high)) if white_is_zero else (low, 255 / (high - low))
    levels: NDArray[np.uint8] = np.empty((image.height, image.width), np.uint8)
    for top, values in _strips(image):
        scaled = (values.astype(np.result_type(values, np.float32)) - black) * factor
        levels[top : top + len(values)] = np.nan_to_num(scaled.round().clip(0, 255))
    return Image.fromarray(levels), notes


def _span(image: Image.Image) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if all values are NaN."""
    ends = [(np.fmin.reduce(values, None), np.fmax.reduce(values, None)) for _, values in _strips(image)]
    least, most = zip(*ends, strict=True)
    return float(np.fmin.reduce(least)), float(np.fmax.reduce(most))


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Yield blocks of rows: the number of the first row, and the values in the type that the file means."""
    unsigned = image.mode == "I" and _tag(image, "BitsPerSample") == (32,) and _tag(image, "SampleFormat") in {(), (1,)}
    meant = np.uint32 if unsigned else np.int8 if image.mode == "L" else None
    rows = max(_STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        yield top, values if meant is None else values.view(meant)


def _is_transparent(image: Image.Image) -> bool:
    """Return whether any pixel of a picture is transparent."""
    if image.mode in {"LA", "PA", "RGBA"}:
        return image.getchannel("A").getextrema()[0] != 255
    key = image.info.get("transparency")
    if image.mode not in {"L", "P"} or not isinstance(key, int | bytes):
        return key is not None  # a colour
    counts = image.histogram()
    if isinstance(key, int):
        return counts[key] > 0
    return any(number and alpha < 255 for number, alpha in zip(counts, key, strict=False))
