"""Packages that import a public name when it is first used (PEP 562), so that importing the package is fast."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], subpackages: Sequence[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package that imports its names on demand.

    Args:
        package: ``__name__`` of the package.
        modules: Public names by the module that defines them.
        subpackages: Subpackages that can be used as attributes without a separate import.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> object:
        if name in module_of:
            value: object = getattr(import_module(module_of[name]), name)
        elif name in subpackages:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # later look-ups find the attribute
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of, *subpackages})

    return get, names, sorted(module_of)


def import_names(package: ModuleType) -> None:
    """Import all public names of a package. jsonargparse finds a class by its short name only after its import."""
    for name in package.__all__:
        getattr(package, name)
