"""Old names since version 0.1.0 still work, with a warning. Stored configs may name classes of moved modules."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: The new name of each module, by the old one.
MOVED = {
    f"diffmedseg.{name}": f"diffmedseg.postprocessing.{name}"
    for name in ("calibration", "conformal", "crf", "fusion", "otsu", "refinement")
}


class RenamedAttribute:
    """The old name of a method or property: it warns, and returns the attribute of the new name.

    Args:
        new: The new name, in the same class.
    """

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        """Remember the old name."""
        self.old = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:  # noqa: ANN401  # the type of the attribute
        """Return the attribute of the new name."""
        warnings.warn(f"{self.old} is now {self.new}: use the new name.", FutureWarning, stacklevel=2)
        return getattr(owner if instance is None else instance, self.new)


class _MovedModules(MetaPathFinder, Loader):
    """Imports a moved module under its old name, and warns once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for a module that moved, and None for any other."""
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: Python creates the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the old module with the names of the new module."""
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}: use the new name.", FutureWarning, stacklevel=2)
        vars(module).update({k: v for k, v in vars(import_module(new)).items() if not k.startswith("__")})


def keep_old_names() -> None:
    """Make the old names importable."""
    sys.meta_path.append(_MovedModules())  # last: Python asks it only for modules without a file
