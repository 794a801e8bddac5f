"""The configuration files of the package: models, data sets and presets by name.

They are in ``experiments/`` of the repository, and in the installed package. Importing this module needs no torch.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffmedseg.errors import RecipeError, unknown
from diffmedseg.files import FormatError, expand_home, read_yaml

_YAML = (".yaml", ".yml")


def experiments_folder() -> Path:
    """Return the folder of the configuration files: in the installed package, else in the repository."""
    package = Path(__file__).parent
    installed = package / "_experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def list_parts(part: str) -> list[str]:
    """Return the names of the files of a part, without combinations (``a+b``).

    Args:
        part: The folder: ``model``, ``member``, ``data``, ``preset``, ``logger``, ``callbacks`` or ``chain``.
    """
    return sorted(path.stem for path in (experiments_folder() / part).glob("*.yaml") if "+" not in path.stem)


def list_models() -> list[str]:
    """Return the names of all models, such as ``medsegdiff-lite``."""
    return sorted([*list_parts("model"), *list_parts("member")])


def list_datasets() -> list[str]:
    """Return the names of all data sets, such as ``isic2017``."""
    return list_parts("data")


def list_presets(model: str | None = None) -> list[str]:
    """Return the names of the presets, such as ``cpu``.

    Args:
        model: Presets of this model; None for the presets of any model.
    """
    combined = [path.stem.partition("+") for path in (experiments_folder() / "preset").glob("*+*.yaml")]
    for_model = [preset for preset, _, name in combined if model is None or name == model]
    return sorted({*list_parts("preset"), *for_model})


def data_file(name: str | Path) -> Path:
    """Return the yaml of a data set.

    Args:
        name: Name of the data set, or path of your own yaml file.

    Raises:
        RecipeError: If there is no such data set; the message suggests similar names.
    """
    return (
        own_file(name) or experiments_folder() / "data" / f"{known_name('data set', str(name), list_datasets())}.yaml"
    )


def data_config(name: str | Path) -> dict[str, Any]:
    """Return the configuration of a data set's data module: ``class_path`` and ``init_args``.

    Raises:
        RecipeError: If there is no such data set, or the file describes none.
    """
    path = data_file(name)
    content = read_settings(path)
    config = content.get("data", content)
    if not (isinstance(config, dict) and "class_path" in config):
        raise RecipeError(f"{path} describes no data set; expected a class_path under data.")
    return {"init_args": {}, **config}


def data_root(data: str | Path, root: str | Path | None = None) -> Path | None:
    """Return the folder of a data set; None for the folder in its yaml.

    Args:
        data: Name of the data set, or a yaml file.
        root: The folder that the user gives; None for ``$DIFFMEDSEG_DATA/<data>`` if the variable is set.
    """
    path = data_file(data)
    return find_root(root, path.stem, read_settings(path))


def find_root(root: str | Path | None, data: str, content: dict[str, Any]) -> Path | None:
    """Return the folder of a data set, by its name and the content of its yaml; see :func:`data_root`."""
    if root is not None:
        return Path(root)
    everything = os.environ.get("DIFFMEDSEG_DATA")
    has_root = "root" in content.get("data", {}).get("init_args", {})
    return Path(everything) / data if everything and has_root else None


def own_file(name: str | Path) -> Path | None:
    """Return the path if a name is the path of a user's own yaml file; None for other names.

    Raises:
        RecipeError: If the file is missing.
    """
    path = expand_home(name)
    if path.suffix not in _YAML:
        return None
    if not path.is_file():
        raise RecipeError(f"There is no file {path}.")
    return path


def read_settings(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        RecipeError: If the file cannot be read, or does not contain a mapping.
    """
    try:
        content = read_yaml(path)
    except (OSError, FormatError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} has no settings; expected a mapping with model: or data:.")
    return content


def known_name(kind: str, name: str, names: Sequence[str]) -> str:
    """Return the name if it is known.

    Raises:
        RecipeError: If it is not known; the message suggests similar names, or lists all.
    """
    if name not in names:
        raise RecipeError(unknown(kind, name, names))
    return name
