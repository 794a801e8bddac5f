"""Loading entries of a zoo, and checkpoints."""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from diffmedseg.checkpoints import cannot_be_loaded
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.zoo.building import ZooError, build, checkpoint_config, whole
from diffmedseg.zoo.registry import CONFIG, WEIGHTS, Entry
from diffmedseg.zoo.source import Source, current_source, file_sha256

#: Config, weights, and what supervision these took, where that is known.
_Parts = tuple[Any, dict[str, torch.Tensor], str | None]


def list_pretrained() -> list[str]:
    """Return the names of the entries that have weights."""
    return sorted(name for name, entry in current_source().entries().items() if entry.status == "trained")


def load_pretrained(name: str) -> DiffusionSegmenter:
    """Load an entry: verified, with its averaged weights, in evaluation mode, on the CPU.

    Args:
        name: Name of the entry, see :func:`list_pretrained`.

    Raises:
        ZooError: If there is no such entry or it is a recipe, a file is missing or its sha256 is wrong, or the config
            names a class outside ``ALLOWED``.
    """
    return load_entry(current_source(), name)


def load_entry(source: Source, name: str) -> DiffusionSegmenter:
    """Load an entry of a zoo; see :func:`load_pretrained`."""
    return load_verified(name, *source.verified(name))


def load_verified(name: str, folder: Path, entry: Entry) -> DiffusionSegmenter:
    """Load an entry from its folder, whose files were checked already."""
    if entry.status == "recipe":
        raise ZooError(
            f"{name} is a recipe: nobody has trained it yet. `diffmedseg fit -c {folder / 'run.yaml'}` does."
        )
    return _load(folder / CONFIG, partial(_entry_parts, folder, entry))


def _entry_parts(folder: Path, entry: Entry) -> _Parts:
    return yaml.safe_load((folder / CONFIG).read_text()), whole(load_file(folder / WEIGHTS)), entry.learned_from


def load_checkpoint(path: str | Path) -> DiffusionSegmenter:
    """Load what a run trained: with its averaged weights, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint, or a run's folder: its best checkpoint, with its calibration where it has one. Nothing is
            unpickled.

    Raises:
        ZooError: If there is no such file, or it is not a checkpoint of this project's command line.
    """
    path = Path(path).expanduser()
    if (path / WEIGHTS).is_file():
        raise ZooError(f"{path} is an entry of a zoo: give its name, {path.name} (and DIFFMEDSEG_ZOO={path.parent}).")
    path = best_checkpoint(path) if path.is_dir() else path
    if not path.is_file():
        raise ZooError(f"There is no checkpoint {path}.")
    return _load(path, partial(_checkpoint_parts, path))


def _checkpoint_parts(path: Path) -> _Parts:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint_config(checkpoint), checkpoint["state_dict"], checkpoint.get("learned_from")


def _load(path: Path, parts: Callable[[], _Parts]) -> DiffusionSegmenter:
    """Build a model from a config and weights, whatever is wrong with them.

    Args:
        path: The file that is named where something is.
        parts: Reads them.
    """
    try:
        config, weights, learned_from = parts()
        model = build(config)
        if isinstance(model, DiffusionSegmenter):
            model.load_state_dict(weights)
            model.learned_from = learned_from or model.learned_from
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from error
    except Exception as error:  # a file can be anything
        raise ZooError(cannot_be_loaded(path, error)) from error
    if not isinstance(model, DiffusionSegmenter):
        raise ZooError(f"{path} describes a {type(model).__name__}, not a segmenter.")
    return model.eval()


def best_checkpoint(run: Path) -> Path:
    """Return the best checkpoint of a run: the calibrated one, where ``diffmedseg calibrate`` made it of the best."""
    best, calibrated = (run / "checkpoints" / name for name in ("best.ckpt", "calibrated.ckpt"))
    said = run / "calibration.json"
    if not (calibrated.is_file() and best.is_file()):
        return best
    if said.is_file() and json.loads(said.read_text()).get("checkpoint") == file_sha256(best):
        return calibrated
    warnings.warn(f"{calibrated} was not made of best.ckpt as it is, and is left out: calibrate again.", stacklevel=3)
    return best
