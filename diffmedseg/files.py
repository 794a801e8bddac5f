"""Files that the project reads and writes: YAML, hashes, and the folder of cached files."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

# libyaml parses the registry 50 times faster than PyYAML; not every build of PyYAML has it.
_SafeLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:  # noqa: ANN401  YAML can hold anything
    """Read a YAML file of plain values; nothing in it is run.

    Raises:
        yaml.YAMLError: If the file is not YAML.
    """
    return yaml.load(path.read_text(encoding="utf-8"), _SafeLoader)


def cache_folder() -> Path:
    """Return where decoded data is kept: ``$DIFFMEDSEG_CACHE``, else ``~/.cache/diffmedseg``."""
    return Path(os.environ.get("DIFFMEDSEG_CACHE", Path.home() / ".cache" / "diffmedseg"))


def file_sha256(path: Path) -> str:
    """Return the hash of a file, as 64 hexadecimal digits."""
    return sha256(path.read_bytes()).hexdigest()
