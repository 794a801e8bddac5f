"""Read YAML and JSON, hash files, and find the cache folder."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from diffmedseg.errors import DataError

# libyaml parses the registry 50 times as fast as PyYAML, but some builds of PyYAML lack it.
_SafeLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_MOST_LEVELS = 100  # nesting: code that reads settings recurses at each level
_MOST_VALUES = 1_000_000  # ten times the splits of the largest public data sets


class FormatError(ValueError):
    """A file with a wrong format; the message names the fault but not the file."""


def read_yaml(path: Path, as_text: bool = False) -> Any:  # noqa: ANN401  YAML can hold anything
    """Read a YAML file of plain values. Nothing in it is run.

    Args:
        path: The file.
        as_text: Read numbers and all other values as text.

    Raises:
        FormatError: If the file is not YAML, nests too deeply, or has too many values after its anchors are expanded.
    """
    text = _read_text(path)
    try:
        content = yaml.load(text, yaml.BaseLoader if as_text else _SafeLoader)
    except Exception as error:  # wrong numbers and dates raise ValueError, KeyError, AttributeError and others
        raise FormatError(f"it is not YAML: {_in_a_line(error)}") from error
    _check_extent(content)
    return content


def read_json(path: Path) -> Any:  # noqa: ANN401  JSON can hold anything
    """Read a JSON file.

    Raises:
        FormatError: If the file is not JSON, or nests too deeply.
    """
    text = _read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is not JSON: {_in_a_line(error)}") from error
    _check_extent(content)
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"it is not text in UTF-8: {error}") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _check_extent(content: object) -> None:
    """Refuse too many values: with aliases, a few lines can stand for billions of values."""
    if _extent(content, {}, _MOST_LEVELS)[0] > _MOST_VALUES:
        raise FormatError(f"it has more than {_MOST_VALUES:,} values after its anchors are expanded")


def _extent(value: object, extents: dict[int, tuple[int, int]], levels: int) -> tuple[int, int]:
    """Return the number of values in a value, and the depth of their nesting."""
    if not isinstance(value, dict | list):
        return 1, 0
    if id(value) not in extents:
        items = value.values() if isinstance(value, dict) else value
        inner = [_extent(item, extents, levels - 1) for item in items] if levels else []
        extents[id(value)] = 1 + sum(number for number, _ in inner), 1 + max((depth for _, depth in inner), default=0)
    if extents[id(value)][1] > levels:
        raise FormatError(f"it nests more than {_MOST_LEVELS} levels deep")
    return extents[id(value)]


def cache_folder() -> Path:
    """Return the folder of the cache: ``$DIFFMEDSEG_CACHE``, else ``~/.cache/diffmedseg``.

    Raises:
        DataError: If neither the variable nor a home folder is set.
    """
    if path := os.environ.get("DIFFMEDSEG_CACHE"):
        return expand_home(path)
    try:
        return Path.home() / ".cache" / "diffmedseg"
    except RuntimeError as error:
        raise DataError(
            "There is no folder for decoded data: this user has no home folder. Set DIFFMEDSEG_CACHE to a writable "
            "folder."
        ) from error


def expand_home(path: str | Path) -> Path:
    """Replace ``~`` in a path by the user's home folder.

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
