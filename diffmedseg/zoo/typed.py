"""Check plain values against the declared types of a dataclass; jsonargparse would take 17 ms for an entry."""

import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


def as_type(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401  any declared type, any plain value
    """Return a value as a declared type: a dataclass, list, dict with text keys, Literal, optional or plain type.

    Args:
        kind: The declared type.
        value: A value from YAML or JSON.
        name: Name of the value in messages.

    Raises:
        ValueError: If the value does not have the type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return None if value is None else as_type(arguments[0], value, name)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin is list and isinstance(value, list):
        return [as_type(arguments[0], item, f"{name}[{index}]") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: as_type(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _as_dataclass(kind, value, name)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        expected = kind.__name__ if isinstance(kind, type) and origin is None else kind
        raise ValueError(f"{name} is {value!r}; expected {expected}")
    return value


def _as_dataclass(kind: Any, value: dict[Any, Any], name: str) -> Any:  # noqa: ANN401
    hints = get_type_hints(kind)
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    if unknown := value.keys() - hints.keys():
        raise ValueError(f"{name} has {', '.join(sorted(map(str, unknown)))}, which is not known")
    if missing := needed - value.keys():
        raise ValueError(f"{name} has no {', '.join(sorted(missing))}")
    return kind(**{key: as_type(hints[key], item, f"{name}.{key}") for key, item in value.items()})
