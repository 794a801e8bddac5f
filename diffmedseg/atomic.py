"""Files that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4


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
