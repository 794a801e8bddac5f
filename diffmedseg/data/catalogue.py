"""The catalogue of named data sets."""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diffmedseg.data import facts
from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.nnunet.facts import nnunet_info
from diffmedseg.data.source import Source
from diffmedseg.experiments import data_config, list_datasets
from diffmedseg.files import expand_home

if TYPE_CHECKING:
    from diffmedseg.data.base import SegmentationDataModule

#: Names that read data sets of users; they are not data sets themselves.
_OWN = ("folder", "nnunet", "volumes")

# The function that returns the facts of each data module from its arguments, without torch.
_FACTS: Mapping[str, Callable[..., DatasetInfo]] = {
    "diffmedseg.data.BrainMRIDataModule": facts.brain_info,
    "diffmedseg.data.ISIC2016DataModule": lambda **_: facts.ISIC_2016,
    "diffmedseg.data.ISIC2017DataModule": lambda **_: facts.ISIC_2017,
    "diffmedseg.data.ISIC2018DataModule": lambda **_: facts.ISIC_2018,
    "diffmedseg.data.NnUNetDataModule": nnunet_info,
    "diffmedseg.data.PictureDataModule": facts.picture_info,
    "diffmedseg.data.SyntheticDataModule": facts.synthetic_info,
}
_LAYOUTS = tuple(
    f"diffmedseg.data.{name}"
    for name in (
        "AgreementMaps", "CaseFolders", "DrawnOutlines", "FileNames", "FourDimensional", "QUBIQSlices", "RaterFiles",
        "SliceFolders", "XMLOutlines",
    )
)  # fmt: skip


def configured(name: str, folder: str | Path | None, settings: Mapping[str, str]) -> "SegmentationDataModule":
    """Build a data module.

    Args:
        name: Name of a data set, or path of your own yaml file.
        folder: The folder of the data; None for the folder in the yaml.
        settings: Settings that replace those of the yaml; dots separate outer and inner names.

    Raises:
        RecipeError: If there is no such data set.
    """
    from diffmedseg.data.configured import build_data, named_packages

    config = data_config(name)
    if folder is not None and "root" in config["init_args"]:
        config["init_args"]["root"] = str(expand_home(folder))
    for key, value in settings.items():
        *outer, last = key.split(".")
        arguments = config["init_args"]
        for part in outer:
            if isinstance(arguments.get(part), str):  # a class by its name alone
                arguments[part] = {"class_path": arguments[part], "init_args": {}}
            arguments = arguments.setdefault(part, {})
            arguments = arguments.get("init_args", arguments)
        arguments[last] = yaml.safe_load(value)
    return build_data(config, named_packages(config))


def dataset_info(config: Mapping[str, Any]) -> DatasetInfo:
    """Return the facts of a data set. For classes of this project, this needs neither torch nor the data.

    Args:
        config: ``class_path`` and ``init_args``, as under ``data`` of a run's configuration.
    """
    info = _own_info(config)
    if info is not None:
        return info
    from diffmedseg.data.configured import build_data, named_packages

    return build_data(dict(config), named_packages(dict(config))).info


def several_raters(config: Mapping[str, Any]) -> bool:
    """Return whether a data set has masks of several raters, according to its configuration and folders.

    Args:
        config: See :func:`dataset_info`. Classes of users are not loaded; the result for them is False.
    """
    info = _own_info(config)
    return info is not None and info.raters > 1


def may_be_volumes(config: Mapping[str, Any]) -> bool:
    """Whether a data set may have volumes, by its data module; of classes of the user's nothing is known."""
    make = _FACTS.get(config.get("class_path", ""))
    return make is None or "depth" in signature(make).parameters


def _own_info(config: Mapping[str, Any]) -> DatasetInfo | None:
    """Return the facts of data that a class of this project reads; None for other classes."""
    try:
        arguments = dict(config.get("init_args", {}))
        make = _FACTS[config["class_path"]]
        if "source" in arguments:
            arguments["source"] = Source(**arguments["source"])
        if "layout" in arguments:
            arguments["layout"] = _layout(arguments["layout"])
        return make(**arguments)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, re.error):  # reported later
        return None


def _layout(config: Mapping[str, Any]) -> object:
    if config["class_path"] not in _LAYOUTS:
        raise ValueError(f"{config['class_path']} is not a layout of this project")
    module, _, name = config["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**config["init_args"])


def markdown_table() -> str:
    """Return the named data sets as a Markdown table."""
    heads = ("`DATA`", "data set", "regions", "raters", "licence", "here")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in list_datasets():
        info = dataset_info(data_config(name))
        title = f"[{info.title}]({info.url})" if info.url else info.title
        is_own = name in _OWN
        raters, status = ("any", "") if is_own else (str(info.raters), "trained" if info.trained else "layout-tested")
        lines.append(f"| `{name}` | {title} | {', '.join(info.regions)} | {raters} | {info.licence} | {status} |")
    return "\n".join(lines)


def described(info: DatasetInfo) -> str:
    """Return the facts of a data set as text."""
    return (
        f"{info.title}: {', '.join(info.regions)} on {', '.join(info.channels)}; raters: {info.raters}.\n"
        f"Licence: {info.licence}.\nCite: {info.citation}.\n{info.download}"
    )
