"""Find and pair the image files of a data set in its official layout."""

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
        window: Window of the image that is read; None reads the whole image.
    """

    id: str
    image: Path
    masks: tuple[Path, ...]
    window: "CropWindow | None" = None


def find_folders(root: Path, name: str) -> list[Path]:
    """Find the folders with an official name, in upper or lower case.

    Archives are often unpacked into a folder of the same name, so a second level is searched.

    Returns:
        The folders in ``root``, then the folders of the same name within them; empty if ``root`` does not exist.
    """

    def with_name(parent: Path) -> list[Path]:
        return sorted(path for path in parent.iterdir() if path.name.lower() == name.lower() and path.is_dir())

    outer = with_name(root) if root.is_dir() else []
    return outer + [inner for folder in outer for inner in with_name(folder)]


def index_files(folders: Sequence[Path], pattern: re.Pattern[str]) -> dict[str, Path]:
    """Find the files whose whole name matches a pattern; other files are ignored.

    Args:
        folders: Folders to search.
        pattern: Its first group is the id; ids are returned in upper case.

    Raises:
        DataError: If two files have the same id.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if (match := pattern.fullmatch(path.name)) and path.is_file():
                files[match[1].upper()].append(path)
    repeated = {name: " and ".join(map(str, paths)) for name, paths in files.items() if len(paths) > 1}
    if repeated:
        examples = first_names(repeated.values())
        raise DataError(f"{len(repeated)} ids occur more than once: {examples}. Keep one file of each.", repeated)
    return {name: paths[0] for name, paths in files.items()}


def pair(images: Mapping[str, Path], masks: Mapping[str, Path], image_folder: Path, mask_folder: Path) -> list[Item]:
    """Pair images and masks by id, in the order of ids.

    Args:
        images: Files of images by id.
        masks: Files of masks by id.
        image_folder: Expected folder of the images, for the error message.
        mask_folder: Expected folder of the masks, for the error message.

    Raises:
        DataError: If an image has no mask, or a mask no image.
    """
    unpaired = [
        f"{count(len(unpaired_ids), noun)} without {partner} in {folder}: {first_names(unpaired_ids)}"
        for noun, unpaired_ids, partner, folder in (
            ("image", images.keys() - masks.keys(), "a mask", mask_folder),
            ("mask", masks.keys() - images.keys(), "an image", image_folder),
        )
        if unpaired_ids
    ]
    if unpaired:
        raise DataError(
            f"{'; '.join(unpaired)} (of {len(images)} images and {len(masks)} masks). Unpack both archives again and "
            "completely, or remove the files without a partner.",
            images.keys() ^ masks.keys(),
        )
    return [Item(name, images[name], (masks[name],)) for name in sorted(images)]
