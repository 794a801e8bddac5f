"""What users upload: ZIP files are unpacked, and DICOM files are sorted by their series."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.reading.dicom import list_series
from diffmedseg.reading.names import clean_name

MOST_FILES = 2000  # of one upload
_MOST_BYTES = 4 * 2**30  # that a ZIP file holds: a few whole CDs


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
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:  # RuntimeError: encrypted
        raise DataError(f"{archive.name} cannot be unpacked ({error}): pack it again, without a password.") from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)


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
