"""The data sets that have a name."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.info import DatasetInfo
from diffmedseg.recipes import data_config, list_datasets

#: Not data sets, but what reads those of users.
_OWN = ("folder", "volumes")


def configured(name: str, folder: str | Path | None, settings: Mapping[str, str]) -> SegmentationDataModule:
    """Build a data module.

    Args:
        name: Name of a data set, or a yaml file of one's own.
        folder: The folder that holds it; None for what its yaml says.
        settings: Others than those of the yaml; dots stand between outer and inner ones.

    Raises:
        RecipeError: If there is no such data set.
    """
    config = data_config(name)
    if folder is not None and "root" in config["init_args"]:
        config["init_args"]["root"] = str(folder)
    for key, value in settings.items():
        *outer, last = key.split(".")
        place = config["init_args"]
        for name in outer:
            place = place.setdefault(name, {})
            place = place.get("init_args", place)
        place[last] = yaml.safe_load(value)
    return build_data(config)


def markdown_table() -> str:
    """Return the data sets that have a name as a Markdown table."""
    heads = ("`DATA`", "data set", "regions", "raters", "licence", "here")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in list_datasets():
        info = configured(name, None, {}).info
        title = f"[{info.title}]({info.url})" if info.url else info.title
        own = name in _OWN
        raters, status = ("any", "") if own else (str(info.raters), "trained" if info.trained else "layout-tested")
        lines.append(f"| `{name}` | {title} | {', '.join(info.regions)} | {raters} | {info.licence} | {status} |")
    return "\n".join(lines)


def described(info: DatasetInfo) -> str:
    """Return the facts of a data set for people."""
    return (
        f"{info.title}: {', '.join(info.regions)} on {', '.join(info.channels)}; raters: {info.raters}.\n"
        f"Licence: {info.licence}.\nCite: {info.citation}.\n{info.download}"
    )
