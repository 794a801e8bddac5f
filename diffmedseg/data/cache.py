"""The cache of decoded data: folders that are written once and completely, and their keys."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.atomic import temporary_folder, temporary_for
from diffmedseg.errors import DataError

_BLOCK, _WHOLE = 4096, 128 * 1024  # bytes: see files_key
# Formats that may be uncompressed.
_UNCOMPRESSED = {".bmp", ".mha", ".nii", ".nrrd", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff"}


def map_array(path: Path) -> NDArray[Any]:
    """Memory-map an array of the cache, read-only.

    Raises:
        DataError: If the file is missing or damaged; the message names its folder.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except Exception as error:  # numpy parses the header as Python, which raises many kinds
        raise damaged_cache(path.parent, error) from error
    return array


def damaged_cache(folder: Path, error: Exception) -> DataError:
    """Return an error that names a damaged folder of the cache."""
    return DataError(f"The cache {folder} is damaged ({error}). Delete this folder; the next run makes it again.")


def build_once(target: Path, megabytes: float, write: Callable[[Path], None]) -> None:
    """Make a folder of the cache unless it exists: completely or not at all, also if several processes start together.

    Args:
        target: The folder.
        megabytes: Size of its content in MB.
        write: Makes and fills the folder that it is given.

    Raises:
        DataError: If there is no room or no permission to write. Errors of ``write`` pass through. No partial folder
            is left.
    """
    if target.is_dir():
        return
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < megabytes * 1e6:  # writing to a map on a full disk kills the process
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with temporary_folder(target) as complete:
            write(complete)
            try:
                complete.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another process was first, with the same result
                    raise
    except OSError as error:
        raise DataError(
            f"Cannot write decoded data to {folder} ({error}). Set DIFFMEDSEG_CACHE to a folder with room for "
            f"{megabytes:.0f} MB."
        ) from error


def cache_entries(folder: Path) -> list[Path]:
    """Return the folders that :func:`build_once` made in a folder, including those of killed processes."""
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(path for path in folders if re.fullmatch(r"[\w.-]+-[0-9a-f]{16}", temporary_for(path) or path.name))


def files_key(files: Iterable[tuple[str, Path]], settings: object) -> str:
    """Compute a key of the files and settings of a result, without reading whole data sets of up to 15 GB.

    Of a file up to 128 KiB, all content counts. Of a larger file, its size and three blocks count: at the start, in the
    middle and at the end. The end of gzip and PNG files has a checksum of the content. An edit of an uncompressed file
    may change none of these, so the modification time of such a file counts, too. Moved or downloaded data keeps its
    key if the archive keeps modification times.

    The key misses two changes: in the middle of a large compressed file of the same size, which only a damaged disk
    makes; and in a large uncompressed file whose modification time was set back.

    Args:
        files: Each file with the id of its item; the folder of the file does not count.
        settings: Settings of the result; their ``repr`` counts.
    """
    digest = blake2b(repr(settings).encode(), digest_size=8)
    for name, path in files:
        try:
            facts = path.stat()
        except OSError:
            continue  # the reader reports the error, and no result is written
        edited = facts.st_mtime_ns if facts.st_size > _WHOLE and path.suffix.lower() in _UNCOMPRESSED else None
        digest.update(repr((name, path.name, facts.st_size, edited)).encode())
        digest.update(_sample(path, facts.st_size))
    return digest.hexdigest()


def _sample(path: Path, size: int) -> bytes:
    """Return the content of a small file, or three blocks of a large one."""
    try:
        with path.open("rb", buffering=0) as file:
            if size <= _WHOLE:
                return file.read()
            blocks = []
            for start in (0, (size - _BLOCK) // 2, size - _BLOCK):
                file.seek(start)
                blocks.append(file.read(_BLOCK))
            return b"".join(blocks)
    except OSError:
        return b""  # the reader reports the error, and no result is written
