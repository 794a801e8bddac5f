"""Open pictures by Pillow."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock

from PIL import Image, ImageFile
from PIL.ExifTags import Base

from diffmedseg.errors import DataError
from diffmedseg.reading.dicom import is_dicom_file
from diffmedseg.reading.names import NOWHERE, VOLUMES

# Formats of which Pillow reads only the header, or for which it needs another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Pillow refuses more than twice this number. A header of more pixels is usually damaged.
_MOST_PIXELS = 2**29
# Pictures of many pixels have many bytes: even in one colour, PNG and JPEG hold about a thousand pixels in a byte.
# Small pictures may have fewer bytes, such as a blank fax page.
_LARGE, _PIXELS_PER_BYTE = 50_000_000, 2000
_PNG_METADATA = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}


class PictureError(ValueError):
    """A picture that cannot be used as it is. The message has the reason and the remedy, not the file's name."""


class _PillowLimits:
    """Pillow's limits while pictures are open: up to a gigapixel, and no files that are cut short.

    The limits are global, and threads open pictures at the same time: the first thread sets them, and the last thread
    restores them.
    """

    def __init__(self) -> None:
        self._lock, self._open, self._usual = Lock(), 0, (Image.MAX_IMAGE_PIXELS, False)

    def __enter__(self) -> None:
        with self._lock:
            if self._open == 0:
                self._usual = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = _MOST_PIXELS, False
            self._open += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self._usual


_limits = _PillowLimits()


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open a picture or a mask of up to a gigapixel; close it at the end. It is decoded on first use.

    Raises:
        DataError: If the file cannot be opened, cannot be decoded while it is open, or holds several pictures; names
            the file. A :class:`PictureError` raised while the file is open becomes a DataError, too.
    """
    try:
        with _limits, Image.open(path) as image:
            _check_extent(image, path)
            check_single(image)
            _read_turned_tiff(image)
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged headers also cause TypeError and others that are not Pillow's own
        raise DataError(f"{path}: {why_unusable(error, path)}", [path.name]) from error


def _check_extent(image: Image.Image, path: Path) -> None:
    """Refuse a header that announces far more than the file can hold, before memory is allocated."""
    pixels, file_size = image.width * image.height, path.stat().st_size
    if pixels > _LARGE and pixels > _PIXELS_PER_BYTE * file_size:
        raise PictureError(
            f"it has {image.width:,} x {image.height:,} pixels by its header, and only {file_size:,} bytes: it is "
            "damaged. Download or export it again"
        )


def check_single(image: Image.Image) -> None:
    """Refuse files of several pages or frames. MPO is accepted: phones append a preview to a JPEG.

    Raises:
        PictureError: If there are several pictures.
    """
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1 and image.format != "MPO":
        raise PictureError(f"it holds {pictures} pictures: split it first")


def why_unusable(error: Exception, path: Path | None = None) -> str:
    """Say why opening or decoding a picture failed, and what to do; ``path`` is None if only Pillow knows it."""
    if isinstance(error, PictureError):
        return str(error)
    if isinstance(error, PermissionError):
        return f"it cannot be opened ({error.strerror}): change its permissions"
    if isinstance(error, FileNotFoundError):
        return NOWHERE
    if isinstance(error, MemoryError):
        return "it is too large for this machine's memory: shrink it first"
    if path is not None and is_volume(path):
        return "it is a volume, where a picture is expected"
    reason = str(error).replace(f" {str(path)!r}", "")
    return f"it cannot be decoded ({reason}): it is damaged, or Pillow cannot read it. Download or export it again"


def exif_orientation(image: Image.Image) -> tuple[int, int]:
    """Return the EXIF orientations, 1 to 8, of a file and of its decoded picture: Pillow turns TIFF upright."""
    _read_turned_tiff(image)
    orientation = _valid_orientation(image.getexif())
    if image.format != "TIFF":
        return orientation, orientation
    image.load()  # turns it upright; its tag is gone then
    return orientation, 1


def _read_turned_tiff(image: Image.Image) -> None:
    """Make Pillow decode a TIFF of swapped width and height: if it maps such a file into memory, it mixes them up."""
    if image.format == "TIFF" and _valid_orientation(image.getexif()) >= 5 and hasattr(image, "filename"):
        image.filename = ""  # only files that have a name are mapped


def _valid_orientation(exif: Image.Exif) -> int:
    orientation: object = exif.get(Base.Orientation, 1)
    return orientation if isinstance(orientation, int) and orientation in range(1, 9) else 1


def stored_orientation(path: Path) -> int:
    """Return the EXIF orientation of a picture or a mask, 1 to 8, without decoding it; 1 is upright.

    Raises:
        DataError: As :func:`open_image`.
    """
    with open_image(path) as image:
        return _header_orientation(image, path)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of a picture as viewers show it, turned by its EXIF orientation, without decoding it.

    Raises:
        DataError: As :func:`open_image`.
    """
    with open_image(path) as image:
        # Pillow returns the upright size of a TIFF.
        turned = image.format != "TIFF" and _header_orientation(image, path) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def _header_orientation(image: Image.Image, path: Path) -> int:
    # Pillow decodes a PNG to look for metadata behind its pixels.
    late = image.format != "PNG" or _has_late_metadata(path)
    return _valid_orientation(image.getexif() if late else Image.Image.getexif(image))


def _has_late_metadata(path: Path) -> bool:
    """Return whether a PNG has metadata behind its pixels."""
    with path.open("rb") as file:
        file.seek(8)
        behind = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if behind and kind in _PNG_METADATA:
                return True
            behind = behind or kind == b"IDAT"
            file.seek(length + 4, 1)
    return False


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that Pillow reads."""
    suffixes = Image.registered_extensions()  # this loads Pillow's readers
    readable = {*Image.OPEN, "MPO"} - _NOT_DECODED  # MPO is opened as JPEG
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in readable)


def is_volume(path: Path) -> bool:
    """Return whether a file is a volume by its name or its content."""
    return path.name.lower().endswith(VOLUMES) or is_dicom_file(path)
