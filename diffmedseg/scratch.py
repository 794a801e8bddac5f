"""Temporary folders that are removed at the end, or by the next process if this one is killed."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffmedseg.atomic import lock_folder

_STARTING = 60  # seconds: a younger folder may not be locked yet


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Make a temporary folder that only this user can read, and remove it at the end.

    Folders of the same prefix that killed processes left behind are removed first: nobody holds their locks.

    Args:
        prefix: Start of the folder's name. Each kind of program needs its own prefix.
    """
    _remove_orphans(Path(tempfile.gettempdir()), prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    try:
        with lock_folder(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # it belongs to another user, or is in use
            status = folder.lstat()
            is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if is_own and not folder.is_symlink() and status.st_mtime < time.time() - _STARTING:
                with lock_folder(folder) as locked:
                    if locked:
                        shutil.rmtree(folder, ignore_errors=True)
