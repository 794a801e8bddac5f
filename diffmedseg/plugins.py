"""Packages of users: their classes are loaded where the user trusts the package by name, and never else.

A distribution may say once, where it is installed, that its packages are meant for diffmedseg; whoever installed it
trusts it. In its pyproject.toml, each value being a package::

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
    """Return the names of the packages that are trusted: those given, and those of installed plug-ins.

    Raises:
        PluginError: If a name is not that of a top-level package.
    """
    given = {trust} if isinstance(trust, str) else set(trust)
    for name in given:
        if not name.isidentifier():
            raise PluginError(f"{name!r} is not the name of a top-level package: trust takes names such as mypackage.")
    return given | {point.value.partition(":")[0].partition(".")[0] for point in entry_points(group=GROUP)}


def check_trusted(path: str, trust: Collection[str]) -> None:
    """Refuse a class whose package is not trusted; nothing is imported.

    Args:
        path: The full name of the class.
        trust: Names of packages.

    Raises:
        PluginError: Naming the package and the remedy.
    """
    package, dot, _ = path.partition(".")
    if package == "__main__":
        raise PluginError(
            f"The class {path.rpartition('.')[2]} was defined in a script, which nobody can import: move it into a "
            "module, train with that, and trust the module."
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
        PluginError: If the package is not trusted or not there, or the class is another package's or of another kind.
    """
    check_trusted(path, trust)
    package, (module, _, name) = path.partition(".")[0], path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except ImportError as error:
        raise PluginError(f"{path} cannot be imported ({error}): install the package {package}.") from error
    except AttributeError as error:
        raise PluginError(f"{module} has no class {name}: install the version of {package} it is in.") from error
    if not isinstance(cls, type) or not issubclass(cls, bases) or cls.__module__.partition(".")[0] != package:
        raise PluginError(f"{path} is not a class of {package} that diffmedseg builds.")
    return cls
