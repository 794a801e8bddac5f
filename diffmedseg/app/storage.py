"""Cleaning the folder of uploads, and packing results."""

import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path

SESSION = "session-"  # start of the name of a session's folder


def sweep(root: Path, seconds: float) -> None:
    """Remove what belongs to no session, such as abandoned uploads and strokes of the editor.

    Args:
        root: Folder of uploads and sessions.
        seconds: Keep files that are younger: their upload may not be complete.
    """
    oldest = time.time() - seconds
    for entry in root.iterdir():
        with suppress(OSError):  # another thread may have removed it
            if not entry.name.startswith(SESSION) and entry.lstat().st_mtime < oldest:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()


def zip_folder(folder: Path, target: Path) -> Path | None:
    """Pack the files below a folder, without hidden files. Return None if there are none."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    if not files:
        return None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    return target
