"""Read TIFF files of several pages as volumes. As in nnU-Net, a JSON file beside a TIFF has its spacing."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from diffmedseg.errors import DataError
from diffmedseg.files import FormatError, read_json
from diffmedseg.reading.grid import Grid

#: Suffixes of stacks.
STACKS = (".tif", ".tiff")
_UNSAID = "no JSON file has its spacing: 1 mm is used"


def is_stack(path: Path) -> bool:
    """Return whether a file is a TIFF of several pages."""
    if path.suffix.lower() not in STACKS:
        return False
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "n_frames", 1) > 1)
    except OSError:
        return False  # reading the file raises the error


def read_stack(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """Read the pages of a TIFF as the slices of a volume, (1, D, H, W).

    Raises:
        DataError: If the file is damaged, has colours, pages of several sizes, or no usable spacing; names the file.
    """
    try:
        with Image.open(path) as image:
            pages = [np.array(page) for page in ImageSequence.Iterator(image)]
    except Exception as error:  # Pillow raises anything
        raise DataError(f"{path} cannot be read ({error}): write it again") from error
    if len({page.shape for page in pages}) > 1 or pages[0].ndim != 2:
        raise DataError(f"{path} has colours, or pages of several sizes; expected grey pages of one size")
    spacing, note = _spacing(path)
    return np.stack(pages).astype(np.float32)[None], Grid(np.array(spacing[::-1]), np.zeros(3), np.eye(3), note)


def stack_note(path: Path) -> str:
    """Return a note if the spacing of a stack is not known; else ""."""
    return _spacing(path)[1]


def _spacing(path: Path) -> tuple[list[float], str]:
    """Return the distances of pages, rows and columns, in mm, and a note if they are not known.

    The JSON file has the name of the stack, or of its case.
    """
    for name in (path.stem, path.stem[:-5]):
        beside = path.with_name(f"{name}.json")
        if not name or not beside.is_file():
            continue
        try:
            spacing = [float(value) for value in read_json(beside)["spacing"]]
            if len(spacing) != 3 or not all(0 < value < np.inf for value in spacing):
                raise ValueError(f"spacing is {spacing}")
        except (OSError, FormatError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{beside} has no spacing that can be used ({error}); expected three distances in mm"
            ) from error
        return spacing, ""
    return [1.0, 1.0, 1.0], _UNSAID
