"""Objects that record the arguments of their constructor, so that they can be built again.

A config is plain nested data: ``{"class_path": "diffmedseg.diffusion.PriorLoss", "init_args": {"bce": 1.0, ...}}``.
"""

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

import numpy as np

#: Key, in a config, for an argument that is not plain data. Its value names the argument.
UNRECORDED = "_unrecorded"
_ROOT = __name__.partition(".")[0]


class Configurable:
    """Base of all parts of a model. It records the arguments of its constructor, including defaults.

    Subclasses in other packages record theirs, too. Arguments are recorded as plain data when the object is built;
    later changes of the arguments have no effect.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments; ``__init__`` gets the same."""
        self = super().__new__(cls)
        if cls.__init__ is object.__init__ and (
            args or kwargs
        ):  # object.__init__ accepts any arguments after this __new__
            raise TypeError(f"{cls.__name__}() takes no arguments")
        try:
            given = bind_arguments(cls, args, kwargs)
        except TypeError:  # __init__ raises the error; copies and pickles have no arguments
            return self
        # Not setattr, which modules and frozen dataclasses override.
        object.__setattr__(self, "_init_args", {name: describe(value) for name, value in given.items()})
        return self

    def _settle(self, **values: Any) -> None:
        """Record the final values of arguments that left a choice, such as None."""
        # Positional arguments without names are not recorded.
        self.__dict__.setdefault("_init_args", {"arguments": {UNRECORDED: "given without names (*args)"}})
        self.__dict__["_init_args"] |= {name: describe(value) for name, value in values.items()}


def to_config(thing: object) -> dict[str, Any]:
    """Return the config of an object: ``class_path``, the public path of its class, and ``init_args``.

    Args:
        thing: A :class:`Configurable`, a scheduler of diffusers, an optimiser's class or a partial of one.

    Raises:
        TypeError: If the object does not record its arguments.
    """
    config = describe(thing)
    if not isinstance(config, dict) or "class_path" not in config:
        raise TypeError(f"A {type(thing).__name__} does not record its arguments: derive its class from Configurable.")
    return config


def describe(value: Any) -> Any:  # noqa: ANN401  an argument can be anything
    """Return an argument as plain data; ``{UNRECORDED: ...}`` replaces values that are not plain data."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, Configurable) and "_init_args" in vars(value):
        return {"class_path": public_path(type(value)), "init_args": dict(vars(value)["_init_args"])}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    config = getattr(value, "config", None)
    if isinstance(config, Mapping) and hasattr(value, "from_config"):  # a scheduler of diffusers
        arguments = {str(key): describe(item) for key, item in config.items() if not str(key).startswith("_")}
        return {"class_path": public_path(type(value)), "init_args": arguments}
    return _factory(value) or {UNRECORDED: _name_of(value)}


def is_unrecorded(config: object) -> bool:
    """Return whether a config has an unrecorded argument."""
    return bool(unrecorded(config))


def unrecorded(config: object, place: str = "") -> dict[str, str]:
    """Return the unrecorded arguments of a config, by their path in it."""
    if isinstance(config, list):
        return {k: v for i, item in enumerate(config) for k, v in unrecorded(item, f"{place}[{i}]").items()}
    if not isinstance(config, Mapping):
        return {}
    if UNRECORDED in config:
        return {place: str(config[UNRECORDED])}
    items = config["init_args"].items() if "init_args" in config else config.items()
    return {k: v for name, item in items for k, v in unrecorded(item, f"{place}.{name}".lstrip(".")).items()}


def _factory(value: object) -> dict[str, Any] | None:
    """Describe a class or a partial of a class, such as an optimiser; None for any other object."""
    if isinstance(value, type):
        return {"class_path": public_path(value), "init_args": {}}
    if not isinstance(value, functools.partial):
        return None
    # In a partial of the command line, the class is the first argument.
    target, args = (value.func, value.args) if isinstance(value.func, type) else (next(iter(value.args), None), ())
    if not isinstance(target, type) or args:
        return None
    return {"class_path": public_path(target), "init_args": {name: describe(v) for name, v in value.keywords.items()}}


def _name_of(value: object) -> str:
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else f"an object of {public_path(type(value))}"


def public_path(cls: type) -> str:
    """Return the shortest path at which a class is exported: of a package, or of its own module.

    The root package of diffmedseg does not count; its names are for people.
    """
    parts = cls.__module__.split(".")
    for length in range(2 if parts[0] == _ROOT else 1, len(parts)):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), cls.__qualname__, None) is cls:
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def bind_arguments(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor by name, including defaults and arguments for base classes.

    Raises:
        TypeError: If they do not fit.
    """
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # of a class, not of an instance
    given: dict[str, Any] = {}
    for name, value in list(signature.bind(None, *args, **kwargs).arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            given |= value
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            given[name] = value
        elif value:
            raise TypeError(f"{cls.__name__} takes positional arguments without names.")
    parameters = init_parameters(cls)
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return {name: (defaults | given)[name] for name in [*parameters, *given] if name in given or name in defaults}


def init_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor by name, including base classes that it passes keywords to."""
    parameters: dict[str, inspect.Parameter] = {}
    for init in _constructors(cls):
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                parameters.setdefault(name, parameter)
    return parameters


def init_types(cls: type) -> dict[str, Any]:
    """Return the declared types of :func:`init_parameters`; undeclared types are missing."""
    types: dict[str, Any] = {}
    for init in _constructors(cls):
        try:
            types = get_type_hints(init) | types
        except Exception:  # names that only type checkers import
            continue
    return types


def _constructors(cls: type) -> Iterator[Any]:
    """Yield the constructors of a class and its bases, up to the first that passes no keywords on."""
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        init = vars(base)["__init__"]
        yield init
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in inspect.signature(init).parameters.values()):
            return
