"""Write files completely or not at all, and lock folders."""

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
    """Write a file completely or not at all: write to a temporary file beside it, then rename.

    Args:
        path: The file. Its folder is made if it is missing.
        save: Writes to the path that it is given.

    Raises:
        OSError: If the disk is full or not writable; the error names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid4().hex}-{path.name}")  # unique, since several processes may write
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
    """Write a file completely, unless it exists. Of several processes, only one writes it, and none replaces it.

    Returns:
        Whether this process wrote it.

    Raises:
        OSError: If the disk is full or not writable.
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
    """Write a file like :func:`write_whole`, and remove its temporary files of killed processes.

    Call it only if no other process writes the same file.
    """
    if path.parent.is_dir():
        for other in path.parent.iterdir():
            if is_temporary(other) and other.name.endswith(f"-{path.name}"):
                other.unlink(missing_ok=True)
    write_whole(path, save)


def is_temporary(path: Path) -> bool:
    """Return whether a file has the name of a temporary file of :func:`write_whole`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes in a folder and below it.

    Call it only if no other process writes to the folder.
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
        shared: Whether other processes may hold a shared lock at the same time. An exclusive lock excludes all others.

    Yields:
        Whether the lock is held; False if the file system or the operating system has no locks.

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
        except OSError:  # some network file systems cannot lock folders
            return False
        else:
            return True


def temporary_for(path: Path) -> str | None:
    """Return the final name of a folder of :func:`temporary_folder`; None for any other folder."""
    match = _TEMPORARY_FOLDER.fullmatch(path.name)
    return match[1] if match else None


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a path beside a target, for a folder to make, fill and rename. The rest is removed at the end.

    The folder is locked. Folders of killed processes beside the target are removed first, for any target.

    Args:
        target: Final path of the folder; its parent has to exist.
    """
    with ExitStack() as stack:
        with lock_folder(target.parent, wait=math.inf) as locked:  # so that no process removes the new folder
            if locked:
                _remove_folders(target.parent)
            made = TemporaryDirectory(prefix=".tmp-", suffix=f"-{target.name}", dir=target.parent)
            temporary = Path(stack.enter_context(made))
            stack.enter_context(lock_folder(temporary))
        yield temporary / target.name


def _remove_folders(parent: Path) -> None:
    """Remove the temporary folders that no process has locked."""
    for path in parent.iterdir():
        if temporary_for(path) and path.is_dir():
            with suppress(BlockingIOError, FileNotFoundError), lock_folder(path) as locked:
                if locked:
                    shutil.rmtree(path, ignore_errors=True)
