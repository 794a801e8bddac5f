"""Packages that import a public name when it is first used (PEP 562): importing such a package costs nothing."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], subpackages: Sequence[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are imported on demand.

    Args:
        package: ``__name__`` of the package.
        modules: The public names by the module that defines them.
        subpackages: Subpackages that can be used as attributes without an import of their own.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> object:
        if name in module_of:
            value: object = getattr(import_module(module_of[name]), name)
        elif name in subpackages:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # the next look-up does not come here
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of, *subpackages})

    return get, names, sorted(module_of)


def import_names(package: ModuleType) -> None:
    """Import all public names of a package: jsonargparse knows a class by its short name once it is imported."""
    for name in package.__all__:
        getattr(package, name)
