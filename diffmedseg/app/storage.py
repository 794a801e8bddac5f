"""Where uploads lie while the app runs, and how they go: with the session, with the app, and after a crash."""

import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffmedseg.atomic import lock_folder

SESSION = "session-"  # begins the name of a session's folder
_ROOT = "diffmedseg-app-"  # begins the name of an app's folder
_BEGINNING = 60  # seconds in which an app may not have locked its folder yet


@contextmanager
def upload_root() -> Iterator[Path]:
    """Make a folder for uploads, which nobody else may read, and remove it at the end.

    The folders of apps that were killed are removed, too: nobody holds their locks.
    """
    _remove_orphans(Path(tempfile.gettempdir()))
    root = Path(tempfile.mkdtemp(prefix=_ROOT)).resolve()
    try:
        with lock_folder(root):
            yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _remove_orphans(place: Path) -> None:
    for root in place.glob(f"{_ROOT}*"):
        with suppress(OSError):  # another user's, or one that is in use
            about = root.lstat()
            own = not hasattr(os, "getuid") or about.st_uid == os.getuid()
            if own and not root.is_symlink() and about.st_mtime < time.time() - _BEGINNING:
                with lock_folder(root) as locked:
                    if locked:
                        shutil.rmtree(root, ignore_errors=True)


def sweep(root: Path, seconds: float) -> None:
    """Remove what lies in the root beside sessions, such as uploads that nobody took and strokes of the editor.

    Args:
        root: Folder of uploads and sessions.
        seconds: What changed since then stays: it may still be on its way.
    """
    before = time.time() - seconds
    for entry in root.iterdir():
        with suppress(OSError):  # somebody else may have been quicker
            if not entry.name.startswith(SESSION) and entry.lstat().st_mtime < before:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()


def zip_folder(folder: Path, target: Path) -> Path | None:
    """Pack the files below a folder; None where there are none. Hidden files are left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    if not files:
        return None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    return target
