"""Fine-tune from a source by its name: a zoo entry, a run's folder or a checkpoint.

torch is imported only where it is needed: the command line reads the configuration of an entry without it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmedseg.atomic import write_alone
from diffmedseg.errors import ZooError
from diffmedseg.files import expand_home, file_sha256, read_yaml
from diffmedseg.zoo.registry import CONFIG, WEIGHTS
from diffmedseg.zoo.source import current_source

if TYPE_CHECKING:
    from diffmedseg.models.finetuning import Initialisation
    from diffmedseg.models.segmenter import DiffusionSegmenter

INITIALISATION = "initialisation.json"


def pretrained_config(source: str | Path) -> dict[str, Any]:
    """Return the configuration of a source's model, ``{class_path, init_args}``, without importing its classes.

    Args:
        source: Name of a zoo entry, a run's folder or a checkpoint.

    Raises:
        ZooError: If there is no such source, or it has no weights or is damaged.
    """
    if _is_entry(source):
        folder, _ = current_source().verified(str(source))
        config: dict[str, Any] = read_yaml(folder / CONFIG)
        return config
    import torch

    from diffmedseg.models.building import checkpoint_config

    path = _checkpoint(source)
    try:
        return checkpoint_config(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from error
    except Exception as error:  # a file can be anything
        raise ZooError(f"{path} is damaged, or no checkpoint of this project. Choose another file.") from error


def pretrained_denoiser(config: dict[str, Any]) -> dict[str, Any]:
    """Return the network of a source, for the configuration of a run that fine-tunes it.

    Args:
        config: Result of :func:`pretrained_config`.

    Returns:
        ``{class_path, init_args}`` without the numbers of channels and regions, which come from the data. The
        encoder's weights are None, since they come from the source, too. The condition network learns, even if it was
        frozen in the training of the source. Settings that the source does not have get the default of the class, even
        if the files of the run have other values.
    """
    denoiser = config["init_args"]["denoiser"]
    linked = {"image_channels", "mask_channels"}
    settings = _defaults(denoiser["class_path"]) | denoiser.get("init_args", {})
    arguments = {name: value for name, value in settings.items() if name not in linked}
    if "encoder_weights" in arguments:
        arguments["encoder_weights"] = None
    if "condition_frozen" in arguments:
        arguments["condition_frozen"] = False  # how the source learned, not what it is
    return {"class_path": denoiser["class_path"], "init_args": arguments}


def _defaults(path: str) -> dict[str, Any]:
    """Return the defaults of a network's class; empty for classes of other projects."""
    if not path.startswith(f"{__name__.partition('.')[0]}."):
        return {}
    from diffmedseg.configurable import init_parameters
    from diffmedseg.models.building import find_class

    parameters = init_parameters(find_class(path))
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def initialise_from(model: DiffusionSegmenter, source: str | Path, trust: Collection[str] = ()) -> Initialisation:
    """Copy a source's weights into a model, before training; see :func:`diffmedseg.models.finetuning.initialise`.

    Args:
        model: The model to train; changed in place. Its checkpoints record the source.
        source: Name of a zoo entry, a run's folder (its best checkpoint) or a checkpoint.
        trust: Packages besides diffmedseg whose classes may be imported and built.

    Raises:
        ZooError: If there is no such source, it cannot be loaded, or it has another network.
    """
    from diffmedseg.models.finetuning import MisfitError, initialise
    from diffmedseg.zoo.loading import load_checkpoint, load_pretrained

    if _is_entry(source):
        loaded, digest = load_pretrained(str(source), trust), current_source().find(str(source))[1].sha256[WEIGHTS]
    else:
        path = _checkpoint(source)
        loaded, digest = load_checkpoint(path, trust), file_sha256(path)
    try:
        return initialise(model, loaded, str(source), digest)
    except MisfitError as error:
        raise ZooError(str(error)) from error


def write_initialisation(model: DiffusionSegmenter, folder: Path) -> None:
    """Write the origin of a fine-tuned model's initial weights to ``initialisation.json`` in a run's folder."""
    if model.initialisation is not None:
        text = json.dumps(model.initialisation, indent=1)
        write_alone(folder / INITIALISATION, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _is_entry(source: str | Path) -> bool:
    """Return whether a source is the name of an entry. A file or folder of the name takes precedence."""
    return not expand_home(source).exists() and current_source().has(str(source))


def _checkpoint(source: str | Path) -> Path:
    """Return the checkpoint of a run's folder, or the file itself."""
    from diffmedseg.models.loading import best_checkpoint

    path = expand_home(source)
    if not path.exists():
        raise current_source().nothing_named(str(source))
    if path.is_dir() and not best_checkpoint(path).is_file():
        raise ZooError(f"{path} has no checkpoints/best.ckpt. Give a run's folder, a checkpoint or an entry's name.")
    return best_checkpoint(path) if path.is_dir() else path
