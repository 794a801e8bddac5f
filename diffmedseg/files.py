"""Files that the project reads and writes: YAML, hashes, and the folder of cached files."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from diffmedseg.errors import DataError

# libyaml parses the registry 50 times faster than PyYAML; not every build of PyYAML has it.
_SafeLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:  # noqa: ANN401  YAML can hold anything
    """Read a YAML file of plain values; nothing in it is run.

    Raises:
        yaml.YAMLError: If the file is not YAML.
    """
    return yaml.load(path.read_text(encoding="utf-8"), _SafeLoader)


def cache_folder() -> Path:
    """Return where decoded data is kept: ``$DIFFMEDSEG_CACHE``, else ``~/.cache/diffmedseg``.

    Raises:
        DataError: If neither the variable nor a home folder is set.
    """
    if named := os.environ.get("DIFFMEDSEG_CACHE"):
        return expand_home(named)
    try:
        return Path.home() / ".cache" / "diffmedseg"
    except RuntimeError as error:
        raise DataError(
            "There is no folder for decoded data: this user has no home folder. Set DIFFMEDSEG_CACHE to a folder that "
            "may be written."
        ) from error


def expand_home(path: str | Path) -> Path:
    """Return a path with the user's home folder in place of ``~``.

    Raises:
        DataError: If the path begins with ``~`` and there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path} begins with ~, and there is no such home folder. Write the whole path.") from error


def file_sha256(path: Path) -> str:
    """Return the hash of a file, as 64 hexadecimal digits."""
    return sha256(path.read_bytes()).hexdigest()
