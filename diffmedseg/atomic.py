"""Files that appear whole or not at all, and folders that one process at a time writes to."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}-.+")


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Let ``save`` write to a temporary name beside ``path``, then give the file its own name.

    Args:
        path: The file; its folder is made where it is missing.
        save: Writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid4().hex}-{path.name}")  # its own: processes may write at the same time
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file has a name that :func:`write_whole` gives to temporary files."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder and below it.

    Call it only where no other process writes to the folder.
    """
    for path in folder.rglob(".tmp-*"):
        if is_temporary(path) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Hold the exclusive lock of a folder. The operating system releases it when the process ends or is killed.

    The lock is on the folder itself and leaves no file behind.

    Args:
        folder: The folder, which has to exist.

    Yields:
        Whether the lock is held; False where the file system or the operating system has no locks.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    if fcntl is None:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            raise
        except OSError:  # some network file systems lock no folders
            held = False
        yield held
    finally:
        os.close(handle)
