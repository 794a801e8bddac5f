"""Finding and reading pictures of any size and mode."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.reading.names import PREDICTIONS, is_hidden, listing, refuse_clashes
from diffmedseg.reading.opening import is_volume, picture_suffixes
from diffmedseg.wording import first_names

# What systems leave in folders, and what is written beside maps: nobody expects these to be segmented.
_NOT_MEANT = {"thumbs.db", "desktop.ini", "predictions.csv", PREDICTIONS}
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
            paths, others, folder = _search(str(expand_home(source)))
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
    refuse_clashes(
        [(picture.name, picture.path) for picture in pictures],
        "results",
        "Rename one of each, or predict them into folders of their own.",
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
        if below := [folder.name for folder in deeper if not (folder / PREDICTIONS).exists()]:
            _log.warning(
                "Pictures in folders below it (%s) are left out: use '%s/**/*' for all.", first_names(below), source
            )
        return pictures, others, path
    pictures, others = _sort_out(_glob(source))
    if not pictures:
        hint = " [ and ] stand for a choice of characters; for the bracket itself write [[]." if "[" in source else ""
        hint += _NO_VOLUMES if any(map(is_volume, others)) else ""
        raise DataError(f"{source} is no file, no folder, and a pattern that fits no picture.{hint}")
    return pictures, others, Path(os.path.commonpath([_fixed_part(source), *(file.parent for file in pictures)]))


def _no_picture(folder: Path, source: str) -> DataError:
    pictures, others = _sort_out(_glob(f"{glob.escape(source)}/**/*"))
    hint = ""
    if pictures:
        hint = f" There are some below it: use '{source}/**/*'."
    elif any(map(is_volume, others)):
        hint = _NO_VOLUMES
    expected = "files that Pillow reads, such as .png, .jpg and .tif"
    return DataError(f"No picture in {folder}: expected {expected}; there is {listing(folder)}.{hint}")


def _glob(pattern: str) -> Iterator[Path]:
    """Yield what fits a pattern. The standard library's glob follows links that lead round, again and again."""
    fixed = _fixed_part(pattern)
    return _expand(fixed, Path(pattern).parts[len(fixed.parts) :])


def _expand(place: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield what fits the parts of a pattern below a place; ``**`` stands for any folders, hidden ones left out."""
    if not parts:
        if place.exists() or place.is_symlink():
            yield place
        return
    first, rest = parts[0], parts[1:]
    if not place.is_dir():
        return
    if first == "**" and rest:
        yield from _expand(place, rest)
    for child in sorted(place.iterdir()):
        if child.name.startswith(".") and not first.startswith("."):
            continue
        if first != "**":
            if fnmatch(child.name, first):
                yield from _expand(child, rest)
        elif child.is_dir() and not _leads_back(child):
            yield from _expand(child, parts)
        elif not rest:
            yield child


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and os.path.realpath(folder) in {os.path.realpath(above) for above in folder.parents}


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
        hidden = is_hidden(path.name) or path.parent.name == "__MACOSX"  # patterns leave other hidden folders out
        if hidden or path.name.lower() in _NOT_MEANT or path.is_dir():
            continue
        (pictures if path.suffix.lower() in picture_suffixes() else others).append(path)
    return pictures, others
