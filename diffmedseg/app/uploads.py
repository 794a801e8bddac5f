"""What users upload: ZIP files are unpacked, and DICOM files are sorted by their series."""

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
MOST_FILES = 2000  # of one upload
_MOST_BYTES = 4 * 2**30  # that a ZIP file holds: a few whole CDs


class Uploads:
    """The uploaded files of a session, as they came.

    Args:
        root: The folder in which uploads arrive; sessions have folders of their own there.
        folder: Where the files of this session are kept; it need not exist.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._kept: dict[Path, Path] = {}  # by where they arrived
        self._number = 0

    def take(self, arrived: Sequence[str | Path], copy: bool = False) -> list[Path]:
        """Move files here, and remove those that are named no more: a page names files again that it sent before.

        Args:
            arrived: Where the files arrived, below the root.
            copy: Copy files that lie elsewhere and stay there, such as an example of ours.

        Returns:
            Where each file is kept.

        Raises:
            DataError: If there is no file, there are too many, or one did not arrive here.
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
    """Lay out kept files as ``predict`` takes them, ZIP files unpacked.

    Args:
        files: The files, which stay where they are.
        folder: Gets a folder of the files; it has to exist.
        unpacked: A folder for what ZIP files hold, which is removed again.

    Returns:
        The folder of the files. A volume of several files is called by it.

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
    """Return what a ZIP file holds, unpacked into a folder; of any other file itself."""
    if file.suffix.lower() != ".zip":
        return [file]
    folder.mkdir(parents=True)
    return list(unpack(file, folder))


def _put(file: Path, target: Path) -> None:
    with suppress(OSError):  # a disk may have no links
        os.link(file, target)
        return
    shutil.copyfile(file, target)


def _common_name(names: Sequence[str]) -> str:
    """Return what the names of a case's files begin with, such as a patient's; they differ in the modality."""
    return os.path.commonprefix(list(names)).rstrip("._-") or "volume"  # noqa: RUF071  names, not paths


def unpack(archive: Path, folder: Path) -> Iterator[Path]:
    """Unpack a ZIP file, whatever folders it has, and yield its files: each in a folder of its own, under its own name.

    Args:
        archive: The ZIP file.
        folder: Gets the files; it has to exist.

    Raises:
        DataError: If it is damaged, encrypted, or holds no file, too many or too large ones.
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
                    shutil.copyfileobj(source, file)  # no more than file_size, and its checksum is checked
                yield target
    except DataError:
        raise
    except Exception as error:  # each method of compression raises kinds of its own
        raise DataError(f"{archive.name} cannot be unpacked ({error}): pack it again, without a password.") from error


def _is_hidden(name: str) -> bool:
    """Whether a file is hidden, or one of those that macOS adds to archives."""
    return Path(name).name.startswith(".") or "__MACOSX" in Path(name).parts


def sort_series(folder: Path) -> list[Path]:
    """Move DICOM files of several series into a folder for each, called by its description; return these folders.

    Browsers upload the files of subfolders without their folders. Files of one series stay where they are.

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
