"""Finding, pairing and reading the image files of a data set as it was downloaded."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffmedseg.errors import DataError
from diffmedseg.wording import count, first_names

if TYPE_CHECKING:
    from diffmedseg.reading.windows import CropWindow


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
