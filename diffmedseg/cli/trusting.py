"""Check the classes in a run's configuration before LightningCLI imports them."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from diffmedseg.data.configured import class_names
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.plugins import check_trusted

_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
#: Settings that are text for LightningCLI, even if they look like a class.
_TEXT = {"experiment", "runs", "ckpt_path", "pretrained", "tags", "recommended_encoder"}
#: Packages whose classes every configuration may name.
_USUAL = {__name__.partition(".")[0], "lightning", "torch", "diffusers"}


def check_run(config: Mapping[str, Any], trust: Collection[str]) -> None:
    """Refuse a run's configuration that names a class of an untrusted package. Nothing is imported.

    In place of an object, LightningCLI also takes the bare name of a class or the path of another yaml file. Such text
    is checked like a class.

    Args:
        config: The content of a run's ``config.yaml``.
        trust: Packages that are trusted.

    Raises:
        PluginError: If a package is not trusted; the message names it and the remedy.
    """
    paths = {*class_names(config.get("model"), DiffusionSegmenter), *class_names(config.get("data"))}
    paths |= set(_dotted({key: value for key, value in config.items() if key not in {"model", "data"} | _TEXT}))
    for path in sorted(paths):
        if path.partition(".")[0] not in _USUAL:
            check_trusted(path, trust)


def _dotted(config: object) -> Iterator[str]:
    """Yield text that looks like the path of a class. Outside of model and data, no other setting looks like it."""
    if isinstance(config, Mapping):
        for value in config.values():
            yield from _dotted(value)
    elif isinstance(config, list):
        for value in config:
            yield from _dotted(value)
    elif isinstance(config, str) and _PATH.fullmatch(config):
        yield config
