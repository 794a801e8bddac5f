"""Finding and reading pictures of any size and mode."""

import glob
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from torch import Tensor

from diffmedseg.data.cache import shrink_image
from diffmedseg.data.files import VOLUMES, first_names
from diffmedseg.data.mri.finding import listing
from diffmedseg.data.pictures.windows import check_inside
from diffmedseg.data.store import DataError
from diffmedseg.prediction.volumes.dicom import is_dicom_file
from diffmedseg.segmentation import CropWindow

# Of these Pillow reads the header alone, or it needs another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# What systems leave in folders, and what is written beside maps: nobody expects these to be segmented.
_NOT_MEANT = {"thumbs.db", "desktop.ini", "predictions.csv", "predictions.yaml"}
# Pillow refuses more than twice this: a header that announces a gigapixel is more often damaged than meant.
_MOST_PIXELS = 2**29
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_TWELVE_BIT_LEVELS = 2**12
_NO_VOLUMES = " This model takes pictures, not volumes."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureFile:
    """A picture to be segmented.

    Attributes:
        path: The file.
        name: Its path below the folder that was searched, without suffix: what its results are called.
    """

    path: Path
    name: str

    def files(self) -> list[Path]:
        """Name the files that it is read from."""
        return [self.path]


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


@cache
def _suffixes() -> frozenset[str]:
    """Return what the names of files end in that Pillow reads."""
    suffixes = Image.registered_extensions()  # this loads Pillow's readers
    readable = {*Image.OPEN, "MPO"} - _NOT_DECODED  # MPO is opened as JPEG
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in readable)


def find_pictures(sources: Sequence[str | Path]) -> list[PictureFile]:
    """Find pictures, in the order of their paths; a warning names the files that are left out.

    Args:
        sources: Files, folders (the pictures directly in them) and patterns (``*``, ``?``, ``[...]``, and ``**`` for
            any folders between).

    Raises:
        DataError: If a source holds no picture, or two pictures have the same name but for the suffix or the folder
            that was searched, so that their results would overwrite each other.
    """
    found: dict[str, PictureFile] = {}
    left: dict[str, str] = {}
    for source in sources:
        try:
            paths, others, folder = _search(str(Path(source).expanduser()))
            for path in paths:
                name = path.relative_to(folder).with_suffix("").as_posix()
                found.setdefault(os.path.abspath(path), PictureFile(path, name))
            left |= {os.path.abspath(path): path.relative_to(folder).as_posix() for path in others}
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error}): change its permissions.") from error
    if unknown := [left[path] for path in left.keys() - found.keys()]:
        _log.warning(
            "Left out (%d), for Pillow knows no such ending: %s. Name such a file itself to have it tried.",
            len(unknown),
            first_names(unknown, 6),
        )
    pictures = sorted(found.values(), key=lambda picture: picture.path)
    by_name: dict[str, list[Path]] = {}
    for picture in pictures:  # many disks take names that differ in case, or in how accents are coded, for one
        by_name.setdefault(unicodedata.normalize("NFC", picture.name).casefold(), []).append(picture.path)
    clashes = [" and ".join(map(str, paths)) for paths in by_name.values() if len(paths) > 1]
    if clashes:
        raise DataError(
            f"{len(clashes)} results would have the same name: {first_names(clashes)}. Rename one of each, or predict "
            "them into folders of their own."
        )
    return pictures


def _search(source: str) -> tuple[list[Path], list[Path], Path]:
    """Return pictures, what else is there, and the folder that their names are relative to."""
    path = Path(source)
    if path.is_file():
        return [path], [], path.parent
    if path.is_dir():
        pictures, others = _sort_out(path.iterdir())
        if not pictures:
            raise _no_picture(path, source)
        deeper = {file.parent for file in _sort_out(_glob(f"{glob.escape(source)}/*/*"))[0]}
        if below := [folder.name for folder in deeper if not (folder / "predictions.yaml").exists()]:
            _log.warning(
                "Pictures in folders below it (%s) are left out: use '%s/**/*' for all.", first_names(below), source
            )
        return pictures, others, path
    pictures, others = _sort_out(_glob(source))
    if not pictures:
        hint = " [ and ] stand for a choice of characters; for the bracket itself write [[]." if "[" in source else ""
        hint += _NO_VOLUMES if any(map(_is_volume, others)) else ""
        raise DataError(f"{source} is no file, no folder, and a pattern that fits no picture.{hint}")
    return pictures, others, Path(os.path.commonpath([_fixed_part(source), *(file.parent for file in pictures)]))


def _no_picture(folder: Path, source: str) -> DataError:
    pictures, others = _sort_out(_glob(f"{glob.escape(source)}/**/*"))
    hint = ""
    if pictures:
        hint = f" There are some below it: use '{source}/**/*'."
    elif any(map(_is_volume, others)):
        hint = _NO_VOLUMES
    expected = "files that Pillow reads, such as .png, .jpg and .tif"
    return DataError(f"No picture in {folder}: expected {expected}; there is {listing(folder)}.{hint}")


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUMES) or is_dicom_file(path)


def _glob(pattern: str) -> Iterator[Path]:
    return map(Path, glob.iglob(pattern, recursive=True))


def _fixed_part(pattern: str) -> Path:
    """Return the folders of a pattern before its first wildcard."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def _sort_out(paths: Iterator[Path]) -> tuple[list[Path], list[Path]]:
    """Tell pictures by their suffix from other files; links that lead nowhere are kept, to be reported."""
    pictures: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.name.startswith(".") or path.name.lower() in _NOT_MEANT or path.is_dir():
            continue
        (pictures if path.suffix.lower() in _suffixes() else others).append(path)
    return pictures, others


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
        if _is_volume(path):
            raise DataError("it is a volume, and this model takes pictures") from error
        raise DataError(f"it cannot be decoded ({error}): it is damaged, or no picture that Pillow reads") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


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
