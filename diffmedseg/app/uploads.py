"""Uploaded files: unpack ZIP files, and sort DICOM files by their series."""

import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from diffmedseg.app.storage import SESSION
from diffmedseg.errors import DataError
from diffmedseg.reading.dicom import list_series
from diffmedseg.reading.names import clean_name

NO_FILE = "There is no file: drop a picture, a NIfTI file, or the files of a DICOM series first."
MOST_FILES = 2000  # in an upload
_MOST_BYTES = 4 * 2**30  # in an unpacked ZIP file


class Uploads:
    """The uploaded files of a session, unchanged.

    Args:
        root: Folder in which uploads arrive. It also has the folders of sessions.
        folder: Folder for the files of this session. It need not exist.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._kept: dict[Path, Path] = {}  # by the path of their arrival
        self._number = 0

    def take(self, arrived: Sequence[str | Path], copy: bool = False) -> list[Path]:
        """Move files into the folder, and remove files that are not named any more.

        A page names all files of its list, including those that it sent before.

        Args:
            arrived: Paths of the arrived files, below the root.
            copy: Copy files from elsewhere, such as the example, and leave them there.

        Returns:
            Path of each file in the folder.

        Raises:
            DataError: If there is no file, there are too many files, or a file did not arrive below the root.
        """
        if not arrived:
            raise DataError(NO_FILE)
        if len(arrived) > MOST_FILES:
            raise DataError(f"There are {len(arrived)} files; at most {MOST_FILES} are taken at once.")
        paths = [Path(one) for one in arrived]
        if not copy and not all(path in self._kept or self._arrived_here(path) for path in paths):
            raise DataError("A file was not uploaded here, or some time ago: upload the files again.")
        for path in self._kept.keys() - set(paths):
            self._kept.pop(path).unlink(missing_ok=True)
        for path in paths:
            if path not in self._kept:
                self._number += 1
                target = self._folder / str(self._number) / clean_name(path.name)
                target.parent.mkdir(parents=True)
                (shutil.copyfile if copy else shutil.move)(path, target)
                self._kept[path] = target
        return [self._kept[path] for path in paths]

    def _arrived_here(self, path: Path) -> bool:
        below = path.resolve().relative_to(self._root).parts if self._root in path.resolve().parents else ()
        return bool(below) and not below[0].startswith(SESSION) and path.is_file() and not path.is_symlink()

    def forget(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._kept = {}


def lay_out(files: Sequence[Path], folder: Path, unpacked: Path) -> Path:
    """Arrange files for ``predict``, and unpack ZIP files.

    Args:
        files: The files. They stay unchanged.
        folder: Existing folder that gets a folder of the files.
        unpacked: Temporary folder for the content of ZIP files.

    Returns:
        The folder of the files. A volume of several files has the folder's name.

    Raises:
        DataError: If a ZIP file cannot be unpacked.
    """
    try:
        inside = [one for number, file in enumerate(files) for one in _contents(file, unpacked / str(number))]
        names = [clean_name(file.name) for file in inside]
        inputs = folder / (_common_name(names) if len(names) > 1 else "volume")
        inputs.mkdir()
        for file, name in zip(inside, names, strict=True):
            target, number = inputs / name, 1
            while target.exists():
                number += 1
                target = inputs / f"{number}_{name}"
            _put(file, target)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return inputs


def _contents(file: Path, folder: Path) -> list[Path]:
    """Return the files of a ZIP file, unpacked into a folder; for another file, the file itself."""
    if file.suffix.lower() != ".zip":
        return [file]
    folder.mkdir(parents=True)
    return list(unpack(file, folder))


def _put(file: Path, target: Path) -> None:
    with suppress(OSError):  # the file system may have no links
        os.link(file, target)
        return
    shutil.copyfile(file, target)


def _common_name(names: Sequence[str]) -> str:
    """Return the common start of the names of a case's files, such as the patient's name."""
    return os.path.commonprefix(list(names)).rstrip("._-") or "volume"  # noqa: RUF071  names, not paths


def unpack(archive: Path, folder: Path) -> Iterator[Path]:
    """Unpack a ZIP file, and yield its files. Each file gets a folder of its own and keeps its name.

    Args:
        archive: The ZIP file.
        folder: Existing folder for the files.

    Raises:
        DataError: If it is damaged or encrypted, or has no files, too many files or too large files.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [one for one in opened.infolist() if not one.is_dir() and not _is_hidden(one.filename)]
            if not members:
                raise DataError(f"{archive.name} holds no file.")
            if len(members) > MOST_FILES:
                raise DataError(f"{archive.name} holds {len(members)} files; at most {MOST_FILES} are taken at once.")
            size = sum(one.file_size for one in members)
            if size > _MOST_BYTES:
                raise DataError(f"{archive.name} unpacks to {size:,} bytes; at most {_MOST_BYTES:,} are taken.")
            for number, member in enumerate(members):
                target = folder / str(number) / clean_name(Path(member.filename).name)
                target.parent.mkdir()
                with opened.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)  # zipfile reads at most file_size bytes, and checks the checksum
                yield target
    except DataError:
        raise
    except Exception as error:  # each compression method raises its own errors
        raise DataError(f"{archive.name} cannot be unpacked ({error}): pack it again, without a password.") from error


def _is_hidden(name: str) -> bool:
    """Whether a file is hidden, or was added by macOS to the archive."""
    return Path(name).name.startswith(".") or "__MACOSX" in Path(name).parts


def sort_series(folder: Path) -> list[Path]:
    """Move DICOM files of several series into a folder for each series, and return these folders.

    A folder has the name of its series' description.

    Browsers upload the files of subfolders without the folders. If there is only one series, its files stay where they
    are.

    Raises:
        DataError: If a file is damaged.
    """
    series = list_series(folder)
    if len(series) < 2:
        return []
    folders = []
    for description, files in series:
        name, number = clean_name(description or "series"), 1
        while (folder / (target := name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        (folder / target).mkdir()
        for file in files:
            file.rename(folder / target / file.name)
        folders.append(folder / target)
    return folders
