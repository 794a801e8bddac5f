"""Build a data module from the configuration that a run recorded."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

import diffmedseg.data
from diffmedseg.configurable import init_types
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.errors import DataError
from diffmedseg.lazy import import_names
from diffmedseg.plugins import PluginError, check_trusted, load_class
from diffmedseg.wording import innermost


def build_data(config: dict[str, Any], trust: Collection[str] = ()) -> SegmentationDataModule:
    """Build the data module that a config describes.

    Args:
        config: ``class_path`` and ``init_args``, as under ``data`` of a run's config.yaml or in experiments/data.
        trust: Packages besides diffmedseg whose classes may be built; see :mod:`diffmedseg.plugins`.

    Raises:
        DataError: If the config names a class of an untrusted package (which is then not imported), or if the class
            refuses its arguments.
    """
    import_names(diffmedseg.data)
    try:
        paths = set(class_names(config))
        for path in paths:
            check_trusted(path, trust)
        for path in paths:
            load_class(path, trust, (object,))
    except PluginError as error:
        raise DataError(str(error)) from error
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    try:
        data: SegmentationDataModule = parser.instantiate(parser.parse_object({"data": config})).data
    except (ArgumentError, AttributeError, LookupError, OverflowError, TypeError, ValueError, re.error) as error:
        raise DataError(f"The settings of the data cannot be used: {innermost(str(error))}") from error
    return data


def named_packages(config: dict[str, Any]) -> set[str]:
    """Return the packages other than diffmedseg whose classes a config names; the author of the config trusts them."""
    return {path.partition(".")[0] for path in class_names(config)}


def class_names(config: Any, expected: Any = SegmentationDataModule) -> Iterator[str]:  # noqa: ANN401
    """Yield the classes of other packages that jsonargparse would import for a config.

    Args:
        config: The config, or any part of it.
        expected: Declared type of ``config``. If the type is a class, a string is the name of the class.
    """
    if isinstance(config, list):
        for item in config:
            yield from class_names(item)
    elif isinstance(config, str) and not _takes_text(expected):
        yield from _foreign(config)
    elif isinstance(config, Mapping):
        path = config.get("class_path")
        if isinstance(path, str):
            yield from _foreign(path)
        types = _argument_types(path, expected)
        inner = [config.get(key) for key in ("init_args", "dict_kwargs")] if "class_path" in config else [config]
        for arguments in inner:
            for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
                yield from class_names(value, types.get(name, str))


def _foreign(path: str) -> list[str]:
    """Return the path of a class of another package. Short names stand for classes that are already imported."""
    return [path] if "." in path and not path.startswith("diffmedseg.") else []


def _argument_types(path: object, expected: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the declared types of the arguments of a class of this project; empty if the class is not known."""
    if isinstance(path, str) and path.startswith("diffmedseg."):
        module, _, name = path.rpartition(".")
        try:
            cls = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            return {}  # jsonargparse reports the error
        return init_types(cls) if isinstance(cls, type) else {}
    classes = [cls for cls in (expected, *get_args(expected)) if isinstance(cls, type)]
    matches = [sub for cls in classes for sub in _with_subclasses(cls) if sub.__name__ == path]
    candidates = matches or [cls for cls in classes if is_dataclass(cls)]
    return init_types(candidates[0]) if candidates else {}


def _with_subclasses(cls: type) -> Iterator[type]:
    """Yield a class and all its subclasses, also indirect ones."""
    yield cls
    derived: list[type] = [] if cls is object else type.__subclasses__(cls)
    for sub in derived:
        yield from _with_subclasses(sub)


def _takes_text(expected: Any) -> bool:  # noqa: ANN401
    """Return whether a declared type accepts a string as it is, rather than as the name of a class."""
    if expected in (str, Path, Any):
        return True
    if get_origin(expected) is Literal:
        return any(isinstance(value, str) for value in get_args(expected))
    return any(_takes_text(argument) for argument in get_args(expected))
