"""The data sets that experiments/data holds a configuration of."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.store import DataError

_PLACES = (Path("experiments/data"), Path(__file__).parents[2] / "experiments" / "data")
#: Not data sets, but what reads those of users.
_OWN = ("folder", "volumes")


def configured(name: str, folder: str | Path, settings: Mapping[str, str]) -> SegmentationDataModule:
    """Build a data module.

    Args:
        name: Its yaml, or the name of one in experiments/data.
        folder: The folder that holds it.
        settings: Others than those of the yaml; dots stand between outer and inner ones.

    Raises:
        DataError: If there is no such yaml.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = next((place / f"{name}.yaml" for place in _PLACES if (place / f"{name}.yaml").is_file()), path)
    if not path.is_file():
        raise DataError(f"There is no {name}: name a yaml file, or run this where experiments/data/{name}.yaml is.")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "root" in config["init_args"]:
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
    """Return the data sets of experiments/data as a Markdown table."""
    heads = ("`DATA`", "data set", "regions", "raters", "licence", "here")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for path in sorted(_PLACES[1].glob("*.yaml")):
        info = configured(str(path), ".", {}).info
        title = f"[{info.title}]({info.url})" if info.url else info.title
        own = path.stem in _OWN
        raters, status = ("any", "") if own else (str(info.raters), "trained" if info.trained else "layout-tested")
        lines.append(f"| `{path.stem}` | {title} | {', '.join(info.regions)} | {raters} | {info.licence} | {status} |")
    return "\n".join(lines)


def described(info: DatasetInfo) -> str:
    """Return the facts of a data set for people."""
    return (
        f"{info.title}: {', '.join(info.regions)} on {', '.join(info.channels)}; raters: {info.raters}.\n"
        f"Licence: {info.licence}.\nCite: {info.citation}.\n{info.download}"
    )
