"""Pretrained models: listing, loading, exporting, verifying, publishing.

An entry is a folder with these files:

- ``config.yaml``: the configuration of the model; ``model.safetensors``: its averaged weights.
- ``run.yaml``: the configuration of the training.
- ``cases.csv`` and, of newer runs, ``metrics.json``: the scores.
- ``cases.png``: the worst, median and best cases, if the licence of the data allows it.
- ``example.safetensors``: an input and the output of the model.
- ``README.md``: the card, written from these files and the registry.

``registry.yaml`` has the facts and the version of each entry, the hashes of its files (but the card), and the names of
retired entries with their successors. A recipe is an untrained entry: it has only ``run.yaml`` and a card. Nothing is
ever unpickled. Hashes are checked first. Only classes of diffmedseg and of packages that the user trusts are built.

Each name is imported when it is first used: listing a zoo needs no torch.
"""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.errors import ZooError as ZooError
    from diffmedseg.files import file_sha256 as file_sha256
    from diffmedseg.models.building import (
        allowed_classes as allowed_classes,
        build as build,
        checkpoint_config as checkpoint_config,
    )
    from diffmedseg.zoo.changing import retire as retire, rewrite_card as rewrite_card
    from diffmedseg.zoo.exporting import add_recipe as add_recipe, export as export
    from diffmedseg.zoo.loading import (
        load_checkpoint as load_checkpoint,
        load_entry as load_entry,
        load_model as load_model,
        load_pretrained as load_pretrained,
    )
    from diffmedseg.zoo.pretrained import (
        initialise_from as initialise_from,
        pretrained_config as pretrained_config,
        pretrained_denoiser as pretrained_denoiser,
        write_initialisation as write_initialisation,
    )
    from diffmedseg.zoo.pushing import push as push
    from diffmedseg.zoo.registry import Entry as Entry
    from diffmedseg.zoo.source import (
        Source as Source,
        current_source as current_source,
        filter_entries as filter_entries,
        list_pretrained as list_pretrained,
    )

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.errors": ["ZooError"],
        "diffmedseg.files": ["file_sha256"],
        "diffmedseg.models.building": ["allowed_classes", "build", "checkpoint_config"],
        "diffmedseg.zoo.changing": ["retire", "rewrite_card"],
        "diffmedseg.zoo.exporting": ["add_recipe", "export"],
        "diffmedseg.zoo.loading": ["load_checkpoint", "load_entry", "load_model", "load_pretrained"],
        "diffmedseg.zoo.pretrained": [
            "initialise_from",
            "pretrained_config",
            "pretrained_denoiser",
            "write_initialisation",
        ],
        "diffmedseg.zoo.pushing": ["push"],
        "diffmedseg.zoo.registry": ["Entry"],
        "diffmedseg.zoo.source": ["Source", "current_source", "filter_entries", "list_pretrained"],
    },
)
