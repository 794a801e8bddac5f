"""Names of pictures and volumes: suffixes, checks and comparison."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import features

from diffmedseg.errors import DataError
from diffmedseg.wording import first_names

VOLUMES = (".nii.gz", ".nii", ".mha", ".nrrd")
# Pairs of a header and a file of voxels: not read.
HALVES = (".hdr", ".img", ".img.gz", ".mhd", ".nhdr")
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

_LONGEST_NAME = 150  # bytes, of an upload: leaves room for appended endings within a file system's 255

#: Marks a folder that ``diffmedseg predict`` wrote.
PREDICTIONS = "predictions.yaml"

#: Reason given for a name without a file.
NOWHERE = "it is missing: it was moved, or is a broken link"


def composed(name: str) -> str:
    """Return a name in which a letter and its accent are one character (NFC): macOS stores them apart."""
    return unicodedata.normalize("NFC", name)


def comparable(name: str) -> str:
    """Return a name in the form for comparison: many disks ignore case and the storage of accents."""
    return composed(composed(name).casefold())


def is_hidden(name: str) -> bool:
    """Return whether an operating system left the file or folder: its name begins with a dot, or is ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def check_name(name: str | Path, path: Path) -> None:
    """Refuse a name that is not UTF-8: tables and the keys of the noise cannot hold it.

    Args:
        name: The name, or the path below a folder.
        path: The file, for the message.

    Raises:
        DataError: If the name is not UTF-8; names the file.
    """
    try:
        str(name).encode()
    except UnicodeEncodeError as error:
        readable_path = str(path).encode(errors="backslashreplace").decode()
        remedy = "Rename it; where names look right, set PYTHONUTF8=1"
        raise DataError(f"{readable_path}: its name is not UTF-8. {remedy}", [readable_path]) from error


def files_below(root: Path) -> list[Path]:
    """List the files below a folder, in order, without hidden files and files in hidden folders.

    Links to folders are followed, except links to a folder that contains the link.

    Raises:
        DataError: If a name is not UTF-8, or a link leads nowhere and may be a picture, a volume or a folder. Names it.
    """
    paths: list[Path] = []
    broken: list[str] = []

    def walk(folder: Path, above: frozenset[str]) -> None:
        for path in folder.iterdir():
            if is_hidden(path.name):
                continue
            if path.is_dir():
                real = os.path.realpath(path)
                if real not in above:
                    walk(path, above | {real})
            elif path.exists():
                if path.name.lower().endswith((*VOLUMES, *PICTURES)):
                    check_name(path.relative_to(root), path)
                paths.append(path)
            elif not path.suffix or path.name.lower().endswith((*VOLUMES, *PICTURES)):
                broken.append(str(path))

    if root.is_dir():
        walk(root, frozenset([os.path.realpath(root)]))
    if broken:
        raise DataError(
            f"{first_names(broken)}: {NOWHERE}. Put the files back, or remove the links",
            broken,
        )
    return sorted(paths)


def refuse_clashes(names: Sequence[tuple[str, Path]], what: str, remedy: str) -> None:
    """Refuse names that only differ in case or in how accents are stored.

    Args:
        names: Each name with its file.
        what: The noun for the items, in the plural.
        remedy: What to do.

    Raises:
        DataError: Naming both files.
    """
    files: dict[str, list[str]] = {}
    for name, path in names:
        files.setdefault(comparable(name), []).append(str(path))
    clashes = [" and ".join(paths) for paths in files.values() if len(paths) > 1]
    if clashes:
        raise DataError(f"{len(clashes)} {what} have the same name: {first_names(clashes)}. {remedy}", clashes)


def clean_name(name: str) -> str:
    """Return a safe file name for an upload: only letters, digits, dots, dashes and underscores.

    Folders are removed. Long names keep their end, which has the format. The result names no hidden file.
    """
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^\w.\-]+", "_", last).lstrip(".")
    short = plain.encode()[-_LONGEST_NAME:].decode(errors="ignore")
    return short.lstrip(".") or "image"


def mask_key(path: Path) -> str:
    """Return the name of a mask's image: the mask's name without suffix and endings such as ``_segmentation_mask``."""
    name = path.name
    suffix = next((ending for ending in (*VOLUMES, *PICTURES) if name.lower().endswith(ending)), "")
    name = name[: len(name) - len(suffix)]
    while shorter := _ENDINGS.sub("", name):
        if shorter == name:
            break
        name = shorter
    return name


def stem(path: Path) -> str:
    """Return a volume's name without its suffix."""
    suffix = next((suffix for suffix in VOLUMES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def data_files(folder: Path) -> list[Path]:
    """List the files directly in a folder, without hidden files."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not is_hidden(path.name))


def volume_files(folder: Path) -> list[Path]:
    """List the volumes directly in a folder, without hidden files such as the ``._`` files of macOS archives."""
    return [path for path in data_files(folder) if path.name.lower().endswith(VOLUMES)]


def listing(folder: Path) -> str:
    """Name the first files and folders in a folder."""
    return first_names([path.name for path in folder.iterdir() if not is_hidden(path.name)], 6) or "nothing"
