"""What the configuration of somebody's run may name, before LightningCLI imports it."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from diffmedseg.data.configured import class_names
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.plugins import check_trusted

_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
#: Settings that LightningCLI takes as text, whatever they look like.
_TEXT = {"experiment", "runs", "ckpt_path", "pretrained", "tags", "recommended_encoder"}
#: Packages whose classes the configuration of every run names.
_USUAL = {__name__.partition(".")[0], "lightning", "torch", "diffusers"}


def check_run(config: Mapping[str, Any], trust: Collection[str]) -> None:
    """Refuse a run's configuration that names anything of a package that is not trusted; nothing of it is imported.

    LightningCLI also takes the bare name of a class, or the path of another yaml file, in the place of an object. Where
    an object is expected, such text is refused as a class is.

    Args:
        config: The content of a run's ``config.yaml``.
        trust: Packages that are trusted.

    Raises:
        PluginError: Naming the package and the remedy.
    """
    named = {*class_names(config.get("model"), DiffusionSegmenter), *class_names(config.get("data"))}
    named |= set(_dotted({key: value for key, value in config.items() if key not in {"model", "data"} | _TEXT}))
    for path in sorted(named):
        if path.partition(".")[0] not in _USUAL:
            check_trusted(path, trust)


def _dotted(config: object) -> Iterator[str]:
    """Yield text that has the form of a class's path: outside of model and data no setting is such text."""
    if isinstance(config, Mapping):
        for value in config.values():
            yield from _dotted(value)
    elif isinstance(config, list):
        for value in config:
            yield from _dotted(value)
    elif isinstance(config, str) and _PATH.fullmatch(config):
        yield config
