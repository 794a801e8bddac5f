"""Packages of users. Their classes are loaded only if the user trusts the package by name.

A distribution can register its packages as plug-ins of diffmedseg; installing it then means trusting it. Its
pyproject.toml names a package in each value::

    [project.entry-points."diffmedseg.plugins"]
    anything = "mypackage"
"""

import sys
from collections.abc import Collection
from importlib import import_module
from importlib.metadata import entry_points

from diffmedseg.errors import PluginError as PluginError

GROUP = "diffmedseg.plugins"


def trusted_packages(trust: Collection[str] = ()) -> set[str]:
    """Return the names of the trusted packages: the given packages and those of installed plug-ins.

    Raises:
        PluginError: If a name is not the name of a top-level package.
    """
    packages = {trust} if isinstance(trust, str) else set(trust)
    for name in packages:
        if not name.isidentifier():
            raise PluginError(f"{name!r} is not the name of a top-level package: trust takes names such as mypackage.")
    return packages | {point.value.partition(":")[0].partition(".")[0] for point in entry_points(group=GROUP)}


def check_trusted(path: str, trust: Collection[str]) -> None:
    """Refuse a class of an untrusted package, without importing it.

    Args:
        path: The full name of the class.
        trust: Names of packages.

    Raises:
        PluginError: If the package is not trusted; the message names it and the remedy.
    """
    package, dot, _ = path.partition(".")
    if package == "__main__":
        raise PluginError(
            f"The class {path.rpartition('.')[2]} was defined in a script, which cannot be imported. Move it into a "
            "module, train with the module, and trust it."
        )
    if not dot or package in sys.stdlib_module_names or package == __name__.partition(".")[0]:
        raise PluginError(f"The config names the class {path!r}, which diffmedseg does not build.")
    if package not in trusted_packages(trust):
        raise PluginError(
            f"The config names {path}, a class of the package {package}, which is not trusted. If you trust its code: "
            f"--trust {package}, or trust=[{package!r}] in Python."
        )


def load_class(path: str, trust: Collection[str], bases: tuple[type, ...]) -> type:
    """Import a class of a trusted package.

    Args:
        path: The full name of the class.
        trust: Names of packages.
        bases: The class has to be derived from one of these.

    Raises:
        PluginError: If the package is not trusted or not installed, or the class is of another package or kind.
    """
    check_trusted(path, trust)
    package, (module, _, name) = path.partition(".")[0], path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except ImportError as error:
        raise PluginError(f"{path} cannot be imported ({error}): install the package {package}.") from error
    except AttributeError as error:
        raise PluginError(f"{module} has no class {name}: install a version of {package} with it.") from error
    if not isinstance(cls, type) or not issubclass(cls, bases) or cls.__module__.partition(".")[0] != package:
        raise PluginError(f"{path} is not a class of {package} that diffmedseg builds.")
    return cls
