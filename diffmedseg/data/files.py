"""Finding, pairing and reading the image files of a data set as it was downloaded."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from diffmedseg.errors import DataError
from diffmedseg.wording import count

if TYPE_CHECKING:
    from diffmedseg.segmentation import CropWindow

# What Pillow raises on files that are cut short or overwritten (fuzzed: OSError and SyntaxError) or whose header
# announces an absurd size.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

VOLUMES = (".nii.gz", ".nii", ".mha")
_MOST_LABELS = 31  # whole numbers up to this are labels rather than grey values: ours
PICTURES = (
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"),
    *([".jp2"] if features.check("jpg_2000") else []),  # Pillow may have been built without
    *([".webp"] if features.check("webp") else []),
)
# What tools and data sets append to an image's name.
_ENDINGS = re.compile(
    r"[_-](?:segmentations?|segm?|predictions?|pred|masks?|labels?|lbl|gt|ground[_-]?truth|truth|output|out)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Item:
    """The files of one image.

    Attributes:
        id: Name of the image.
        image: File of the image.
        masks: Files of its masks.
        window: The part of it that is read; None for all.
    """

    id: str
    image: Path
    masks: tuple[Path, ...]
    window: "CropWindow | None" = None


def first_names(names: Collection[str], most: int = 3) -> str:
    """List the first names, and say how many there are beyond: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def find_folders(root: Path, name: str) -> list[Path]:
    """Find the folders of an official name, in upper or lower case.

    Archives that hold a folder are often unpacked into a folder of the same name; hence the second level.

    Returns:
        Those in ``root``, and those directly within these; none if ``root`` does not exist.
    """

    def called(parent: Path) -> list[Path]:
        return sorted(path for path in parent.iterdir() if path.name.lower() == name.lower() and path.is_dir())

    outer = called(root) if root.is_dir() else []
    return outer + [inner for folder in outer for inner in called(folder)]


def index_files(folders: Sequence[Path], pattern: re.Pattern[str]) -> dict[str, Path]:
    """Find the files whose whole name matches, and leave all others be.

    Args:
        folders: Where to look.
        pattern: Its first group is the id, which is returned in upper case.

    Raises:
        DataError: If two files have the same id.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if (match := pattern.fullmatch(path.name)) and path.is_file():
                found[match[1].upper()].append(path)
    repeated = {name: " and ".join(map(str, paths)) for name, paths in found.items() if len(paths) > 1}
    if repeated:
        some = first_names(repeated.values())
        raise DataError(f"{len(repeated)} ids occur more than once: {some}. Keep one file of each.", repeated)
    return {name: paths[0] for name, paths in found.items()}


def pair(images: Mapping[str, Path], masks: Mapping[str, Path], image_folder: Path, mask_folder: Path) -> list[Item]:
    """Pair images and masks by id, in the order of ids.

    Args:
        images: Files of images by id.
        masks: Files of masks by id.
        image_folder: Where the images are expected, for the message.
        mask_folder: Where the masks are expected, for the message.

    Raises:
        DataError: If an image has no mask, or a mask no image.
    """
    unpaired = [
        f"{count(len(alone), what)} without {other} in {folder}: {first_names(alone)}"
        for what, alone, other, folder in (
            ("image", images.keys() - masks.keys(), "a mask", mask_folder),
            ("mask", masks.keys() - images.keys(), "an image", image_folder),
        )
        if alone
    ]
    if unpaired:
        raise DataError(
            f"{'; '.join(unpaired)} (of {len(images)} images and {len(masks)} masks). Unpack both archives again and "
            "completely, or remove what has no partner.",
            images.keys() ^ masks.keys(),
        )
    return [Item(name, images[name], (masks[name],)) for name in sorted(images)]


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


def read_binary_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask of two levels, black and white; damage by JPEG in between is tolerated.

    Returns:
        Shape (h, w), uint8 in {0, 1}: 1 where the grey value is above 127.

    Raises:
        DataError: If the file is unreadable, or dark all over but not black, as where the levels are 0 and 1.
    """
    with open_image(path) as image:
        grey = np.asarray(image.convert("L"))
    if 0 < grey.max() <= 127:
        raise DataError(f"{path} has grey values up to {grey.max()}; a mask has 0 outside and 255 inside: rescale it")
    return (grey > 127).astype(np.uint8)


def value_range(values: NDArray[np.generic]) -> int:
    """Return the top of the range that the values of a mask fill: 1, 255 or 65535; 0 where they fit none."""
    if values.dtype == np.bool_:
        return 1
    low, top = float(values.min()), float(values.max())
    return next((full for full in (1, 255, 65535) if low >= 0 and top <= full), 0)


def binarise(values: NDArray[np.generic], path: Path, full: int | None = None) -> NDArray[np.bool_]:
    """Take what is above half of the range for foreground.

    Args:
        values: Values of a mask.
        path: Its file, for the message.
        full: Top of the range; None guesses it from the values: then a mask that stays below half is refused.

    Raises:
        DataError: If the values say neither foreground nor background, as labels do.
    """
    own = value_range(values)
    numbers = values.astype(np.float64)
    top, levels = float(numbers.max()), np.unique(numbers[numbers > 0])
    guessed, full = full is None, own if full is None else full
    labels = 1 < top <= _MOST_LABELS and len(levels) <= _MOST_LABELS and bool((levels % 1 == 0).all())
    if not own or own > full or labels or (guessed and 0 < top <= full / 2):
        raise DataError(
            f"{path} has values {numbers.min():g} to {top:g}: not those of a mask, 0 to 1 or 0 to 255. Make one mask "
            "per label"
        )
    above: NDArray[np.bool_] = numbers > full / 2
    return above


def mask_key(path: Path) -> str:
    """Return what a mask is a mask of: its name without suffix, and without endings such as ``_segmentation_mask``."""
    name = path.name
    suffix = next((one for one in (*VOLUMES, *PICTURES) if name.lower().endswith(one)), "")
    name = name[: len(name) - len(suffix)]
    while shorter := _ENDINGS.sub("", name):
        if shorter == name:
            break
        name = shorter
    return name
