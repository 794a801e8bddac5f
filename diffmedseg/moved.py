"""Modules that moved since 0.1.0: the old names can still be imported, and stored configs may name their classes."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: The new name of each module, by the old one.
MOVED = {
    f"diffmedseg.{name}": f"diffmedseg.postprocessing.{name}"
    for name in ("calibration", "conformal", "crf", "fusion", "otsu", "refinement")
}


class _MovedModules(MetaPathFinder, Loader):
    """Imports a moved module under its old name, and says the new one once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the modules that moved, and no other."""
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module with the names of the new one."""
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}: use the new name.", FutureWarning, stacklevel=2)
        vars(module).update({k: v for k, v in vars(import_module(new)).items() if not k.startswith("__")})


def keep_old_names() -> None:
    """Make the old names importable."""
    sys.meta_path.append(_MovedModules())  # asked last: only for what no file is found for
