"""Finding and reading pictures of any size and mode."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from diffmedseg.data.nnunet.files import find_images
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.reading.names import PREDICTIONS, is_hidden, listing, refuse_clashes
from diffmedseg.reading.opening import is_volume, picture_suffixes
from diffmedseg.wording import first_names

# Files of operating systems, and files that are written beside maps. They are never segmented.
_NOT_MEANT = {"thumbs.db", "desktop.ini", "predictions.csv", PREDICTIONS}
_NO_VOLUMES = " This model takes pictures, not volumes."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureFile:
    """A picture to segment.

    Attributes:
        path: The file.
        name: Name of the results: the file's path below the searched folder, without suffix.
    """

    path: Path
    name: str

    def files(self) -> list[Path]:
        """Return the file of the picture, as a list."""
        return [self.path]


def find_pictures(sources: Sequence[str | Path]) -> list[PictureFile]:
    """Find pictures, in the order of their paths. A warning names files of other types, which are left out.

    Args:
        sources: Files, folders (without the folders below them) and patterns (``*``, ``?``, ``[...]``, and ``**`` for
            any number of folders).

    Raises:
        DataError: If a source cannot be read or holds no picture, or the results of two pictures would have the same
            name, for example because only the suffix or the searched folder differs.
    """
    by_path: dict[str, PictureFile] = {}
    other_names: dict[str, str] = {}
    for source in sources:
        try:
            paths, other_files, folder = _search(str(expand_home(source)))
            cases = _nnunet_names(folder)
            for path in paths:
                name = cases.get(path.name) or path.relative_to(folder).with_suffix("").as_posix()
                by_path.setdefault(os.path.abspath(path), PictureFile(path, name))
            other_names |= {os.path.abspath(path): path.relative_to(folder).as_posix() for path in other_files}
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error}): change its permissions.") from error
    if unknown := [other_names[path] for path in other_names.keys() - by_path.keys()]:
        _log.warning(
            "Left out (%d), because Pillow reads no files with these suffixes: %s. "
            "To try a file anyway, name it itself.",
            len(unknown),
            first_names(unknown, 6),
        )
    pictures = sorted(by_path.values(), key=lambda picture: picture.path)
    refuse_clashes(
        [(picture.name, picture.path) for picture in pictures],
        "results",
        "Rename one of each, or predict into separate folders.",
    )
    return pictures


def _nnunet_names(folder: Path) -> dict[str, str]:
    """Return the name of the case of each picture in imagesTr or imagesTs of a raw data set of nnU-Net."""
    found = find_images(folder)
    return {} if found is None else {files[0].name: case for case, files in found[1].items() if len(files) == 1}


def _search(source: str) -> tuple[list[Path], list[Path], Path]:
    """Return the pictures, the other files, and the folder that their names are relative to."""
    path = Path(source)
    if path.is_file():
        return [path], [], path.parent
    if path.is_dir():
        pictures, other_files = _sort_out(path.iterdir())
        if not pictures:
            raise _no_picture_error(path, source)
        subfolders = {file.parent for file in _sort_out(_glob(f"{glob.escape(source)}/*/*"))[0]}
        if left_out := [folder.name for folder in subfolders if not (folder / PREDICTIONS).exists()]:
            _log.warning(
                "Pictures in subfolders (%s) are left out. To include them, use '%s/**/*'.",
                first_names(left_out),
                source,
            )
        return pictures, other_files, path
    pictures, other_files = _sort_out(_glob(source))
    if not pictures:
        hint = (
            " In a pattern, [ ] encloses a choice of characters. For a bracket itself, write [[]."
            if "[" in source
            else ""
        )
        hint += _NO_VOLUMES if any(map(is_volume, other_files)) else ""
        raise DataError(f"There is no file or folder {source}, and no picture matches it as a pattern.{hint}")
    return pictures, other_files, Path(os.path.commonpath([_fixed_part(source), *(file.parent for file in pictures)]))


def _no_picture_error(folder: Path, source: str) -> DataError:
    pictures, other_files = _sort_out(_glob(f"{glob.escape(source)}/**/*"))
    hint = ""
    if pictures:
        hint = f" Its subfolders have pictures. To include them, use '{source}/**/*'."
    elif any(map(is_volume, other_files)):
        hint = _NO_VOLUMES
    expected = "files that Pillow reads, such as .png, .jpg or .tif"
    return DataError(f"No picture in {folder}: it holds {listing(folder)}. Expected {expected}.{hint}")


def _glob(pattern: str) -> Iterator[Path]:
    """Yield the paths that match a pattern. The standard library's glob would follow circular links repeatedly."""
    fixed = _fixed_part(pattern)
    return _expand(fixed, Path(pattern).parts[len(fixed.parts) :])


def _expand(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the paths below a folder that match the parts of a pattern; ``**`` matches folders that are not hidden."""
    if not parts:
        if folder.exists() or folder.is_symlink():
            yield folder
        return
    first, later_parts = parts[0], parts[1:]
    if not folder.is_dir():
        return
    if first == "**" and later_parts:
        yield from _expand(folder, later_parts)
    for child in sorted(folder.iterdir()):
        if child.name.startswith(".") and not first.startswith("."):
            continue
        if first != "**":
            if fnmatch(child.name, first):
                yield from _expand(child, later_parts)
        elif child.is_dir() and not _leads_back(child):
            yield from _expand(child, parts)
        elif not later_parts:
            yield child


def _leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to a folder that contains it."""
    return folder.is_symlink() and os.path.realpath(folder) in {os.path.realpath(above) for above in folder.parents}


def _fixed_part(pattern: str) -> Path:
    """Return the folders of a pattern before its first wildcard."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def _sort_out(paths: Iterator[Path]) -> tuple[list[Path], list[Path]]:
    """Separate pictures from other files, by suffix. Broken links are kept, so that they are reported."""
    pictures: list[Path] = []
    other_files: list[Path] = []
    for path in paths:
        hidden = is_hidden(path.name) or path.parent.name == "__MACOSX"  # _expand skips other hidden folders
        if hidden or path.name.lower() in _NOT_MEANT or path.is_dir():
            continue
        (pictures if path.suffix.lower() in picture_suffixes() else other_files).append(path)
    return pictures, other_files
