"""Pretrained models: listing, loading, exporting, verifying.

An entry is a folder with ``config.yaml`` (what rebuilds the model), ``model.safetensors`` (averaged weights),
``run.yaml`` (what trains it again), ``cases.csv`` and, of newer runs, ``metrics.json`` (what it reached), where the
data's licence allows it ``cases.png`` (its worst, median and best cases), ``example.safetensors`` (an input and what
the model made of it) and ``README.md`` (the card). ``registry.yaml`` names the entries and the hash of each file but
the card. A recipe, which nobody has trained yet, has ``run.yaml`` and a card alone. Nothing is ever unpickled, hashes
are checked first, and only classes of diffmedseg, and of packages that the user trusts by name, are built.
"""

from diffmedseg.zoo.building import ZooError, allowed_classes, build, checkpoint_config
from diffmedseg.zoo.exporting import add_recipe, export
from diffmedseg.zoo.loading import list_pretrained, load_checkpoint, load_entry, load_model, load_pretrained
from diffmedseg.zoo.registry import Entry
from diffmedseg.zoo.source import Source, current_source, file_sha256

__all__ = [
    "Entry",
    "Source",
    "ZooError",
    "add_recipe",
    "allowed_classes",
    "build",
    "checkpoint_config",
    "current_source",
    "export",
    "file_sha256",
    "list_pretrained",
    "load_checkpoint",
    "load_entry",
    "load_model",
    "load_pretrained",
]
