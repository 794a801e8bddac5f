"""Versions of the packages that models are trained and exported with."""

from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    *("diffmedseg", "torch", "lightning", "diffusers", "torchmetrics", "monai"),
    *("segmentation-models-pytorch", "timm"),
)


def package_versions() -> dict[str, str | None]:
    """Return the installed version of each of ``PACKAGES``; None if a package is not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def installed_versions() -> dict[str, str]:
    """Return the versions of the installed packages of ``PACKAGES``."""
    return {name: number for name, number in package_versions().items() if number is not None}
