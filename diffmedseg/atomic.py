"""Files that appear whole or not at all, and folders that one process at a time writes to."""

import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}-.+")
_TEMPORARY_FOLDER = re.compile(r"\.tmp-\w{8}-(.+)")
_BETWEEN_TRIES = 0.05  # seconds


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Let ``save`` write to a temporary name beside ``path``, then give the file its own name.

    Args:
        path: The file; its folder is made where it is missing.
        save: Writes to the path that it is given.

    Raises:
        OSError: If the disk is full or may not be written; names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid4().hex}-{path.name}")  # its own: processes may write at the same time
    try:
        save(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_first(path: Path, save: Callable[[Path], object]) -> bool:
    """Write a file whole, unless it is there: of several processes one writes it, and none replaces it.

    Returns:
        Whether this process wrote it.

    Raises:
        OSError: If the disk is full or may not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid4().hex}-{path.name}")
    try:
        save(temporary)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def write_alone(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file as :func:`write_whole` does, and remove what killed processes left of it.

    Call it only where no other process writes the same file.
    """
    if path.parent.is_dir():
        for other in path.parent.iterdir():
            if is_temporary(other) and other.name.endswith(f"-{path.name}"):
                other.unlink(missing_ok=True)
    write_whole(path, save)


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
def lock_folder(folder: Path, wait: float = 0, shared: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder. The operating system releases it when the process ends or is killed.

    The lock is on the folder itself and leaves no file behind.

    Args:
        folder: The folder, which has to exist.
        wait: Seconds to wait for a process that holds the lock.
        shared: Whether other processes may hold a shared lock at the same time; an exclusive one excludes all others.

    Yields:
        Whether the lock is held; False where the file system or the operating system has no locks.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    if fcntl is None:
        yield False
        return
    handle, end = os.open(folder, os.O_RDONLY), time.monotonic() + wait
    try:
        yield _lock(handle, end, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _lock(handle: int, end: float, kind: int) -> bool:
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_BETWEEN_TRIES)
        except OSError:  # some network file systems lock no folders
            return False
        else:
            return True


def temporary_for(path: Path) -> str | None:
    """Return the name that a folder of :func:`temporary_folder` is to have; None of any other folder."""
    match = _TEMPORARY_FOLDER.fullmatch(path.name)
    return match[1] if match else None


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Give a place beside a target for a folder that is made, filled and renamed; what is left at the end is removed.

    A process keeps its folder locked. What killed processes left beside the target, for any target, is removed first.

    Args:
        target: What the folder will be called; its parent has to exist.
    """
    with ExitStack() as stack:
        with lock_folder(target.parent, wait=math.inf) as held:  # nobody takes the new folder for a leftover
            if held:
                _remove_folders(target.parent)
            made = TemporaryDirectory(prefix=".tmp-", suffix=f"-{target.name}", dir=target.parent)
            temporary = Path(stack.enter_context(made))
            stack.enter_context(lock_folder(temporary))
        yield temporary / target.name


def _remove_folders(parent: Path) -> None:
    """Remove the temporary folders that no process holds."""
    for path in parent.iterdir():
        if temporary_for(path) and path.is_dir():
            with suppress(BlockingIOError, FileNotFoundError), lock_folder(path) as held:
                if held:
                    shutil.rmtree(path, ignore_errors=True)
