"""Opening pictures, by Pillow."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image

from diffmedseg.errors import DataError
from diffmedseg.reading.dicom import is_dicom_file
from diffmedseg.reading.names import VOLUMES

# What Pillow raises on files that are cut short or overwritten (fuzzed: OSError and SyntaxError) or whose header
# announces an absurd size.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# Of these Pillow reads the header alone, or it needs another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Pillow refuses more than twice this: a header that announces a gigapixel is more often damaged than meant.
_MOST_PIXELS = 2**29


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image, which is decoded on first use; close it at the end.

    Raises:
        DataError: If it cannot be opened, or cannot be decoded while it is open; names the file.
    """
    try:
        with Image.open(path) as image:
            yield image
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error}): download it again", [path.name]) from error


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image, from its header."""
    with open_image(path) as image:
        return image.height, image.width


@cache
def picture_suffixes() -> frozenset[str]:
    """Return what the names of files end in that Pillow reads."""
    suffixes = Image.registered_extensions()  # this loads Pillow's readers
    readable = {*Image.OPEN, "MPO"} - _NOT_DECODED  # MPO is opened as JPEG
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in readable)


def is_volume(path: Path) -> bool:
    """Whether a file is a volume by its name or its content."""
    return path.name.lower().endswith(VOLUMES) or is_dicom_file(path)


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture of up to a gigapixel.

    Raises:
        DataError: If it cannot be decoded, or holds several pictures. The message does not name the file.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MOST_PIXELS
    try:
        with Image.open(path) as image:
            # Phones append a preview to a JPEG (MPO); pages and films have no single answer.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise DataError(f"it holds {getattr(image, 'n_frames', 1)} pictures: split it first")
            yield image
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"it cannot be opened ({error.strerror}): change its permissions") from error
    except FileNotFoundError as error:
        raise DataError("it is not there: a link that leads nowhere, or a file that was moved") from error
    except MemoryError as error:
        raise DataError("it is too large for this machine's memory: shrink it first") from error
    except Exception as error:  # fuzzed headers bring about TypeError and others beside Pillow's own
        if is_volume(path):
            raise DataError("it is a volume, and this model takes pictures") from error
        raise DataError(f"it cannot be decoded ({error}): it is damaged, or no picture that Pillow reads") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before
