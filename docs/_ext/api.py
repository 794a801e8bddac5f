"""The pages of the API: the public names of each package, by autodoc."""

import inspect
from importlib import import_module

PACKAGES = {
    name.rpartition(".")[2]: name
    for name in (
        "diffmedseg",
        "diffmedseg.models",
        "diffmedseg.diffusion",
        "diffmedseg.data",
        "diffmedseg.callbacks",
        "diffmedseg.postprocessing",
        "diffmedseg.metrics",
        "diffmedseg.evaluation",
        "diffmedseg.prediction",
        "diffmedseg.zoo",
    )
}

#: Names that two packages have: documented where they are first looked for.
ELSEWHERE = {
    ("Segmentation", "diffmedseg.models"),
    ("list_pretrained", "diffmedseg.zoo"),
    ("load_checkpoint", "diffmedseg.zoo"),
    ("load_model", "diffmedseg.zoo"),
    ("load_pretrained", "diffmedseg.zoo"),
}


def page(name: str) -> str:
    """Return the page of a package, as reStructuredText.

    Args:
        name: The package, such as ``diffmedseg.models``.
    """
    package = import_module(name)
    parts = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    for public in package.__all__:
        value = getattr(package, public)
        if inspect.isclass(value):
            directive, options = "autoclass", ["   :members:", *_inherited(value)]
        elif callable(value):
            directive, options = "autofunction", []
        else:
            continue
        if (public, name) in ELSEWHERE:
            continue
        parts += [public, "-" * len(public), "", f".. {directive}:: {name}.{public}", *options, ""]
    return "\n".join(parts)


def _inherited(value: type) -> list[str]:
    """Return the option that documents the members of bases which have no entry of their own."""
    names = {getattr(import_module(name), public) for name in PACKAGES.values() for public in _classes(name)}
    own = [base for base in value.__mro__[1:] if base.__module__.startswith("diffmedseg.")]
    if all(base in names for base in own):
        return []
    left_out = [base.__name__ for base in value.__mro__[1:] if base in names or base not in own]
    return [f"   :inherited-members: {', '.join(left_out)}"]


def _classes(package: str) -> list[str]:
    """Return the public classes of a package."""
    module = import_module(package)
    return [public for public in module.__all__ if inspect.isclass(getattr(module, public))]
