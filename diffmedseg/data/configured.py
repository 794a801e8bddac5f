"""Building a data module from what a run recorded."""

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
        DataError: If the config names a class of a package that is not trusted; then nothing was imported. Or if the
            class refuses its arguments.
    """
    import_names(diffmedseg.data)
    try:
        named = set(class_names(config))
        for path in named:
            check_trusted(path, trust)
        for path in named:
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
    """Return the packages, besides diffmedseg, whose classes a config names: those that its author trusts."""
    return {path.partition(".")[0] for path in class_names(config)}


def class_names(config: Any, expected: Any = SegmentationDataModule) -> Iterator[str]:  # noqa: ANN401
    """Yield the classes of other packages that jsonargparse would import for a config.

    Args:
        config: Anything below the config.
        expected: Its declared type: a string in the place of an object names its class.
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
    """Return a class's path, unless it is ours; short names are of classes that are there already."""
    return [path] if "." in path and not path.startswith("diffmedseg.") else []


def _argument_types(path: object, expected: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the declared types of the arguments of a class of ours, as far as it is known."""
    if isinstance(path, str) and path.startswith("diffmedseg."):
        module, _, name = path.rpartition(".")
        try:
            cls = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            return {}  # jsonargparse says so
        return init_types(cls) if isinstance(cls, type) else {}
    classes = [one for one in (expected, *get_args(expected)) if isinstance(one, type)]
    named = [sub for one in classes for sub in _below(one) if sub.__name__ == path]
    found = named or [one for one in classes if is_dataclass(one)]
    return init_types(found[0]) if found else {}


def _below(cls: type) -> Iterator[type]:
    """Yield a class and all that are derived from it."""
    yield cls
    derived: list[type] = [] if cls is object else type.__subclasses__(cls)
    for sub in derived:
        yield from _below(sub)


def _takes_text(expected: Any) -> bool:  # noqa: ANN401
    """Tell whether a declared type takes a string as a string."""
    if expected in (str, Path, Any):
        return True
    if get_origin(expected) is Literal:
        return any(isinstance(value, str) for value in get_args(expected))
    return any(_takes_text(one) for one in get_args(expected))
