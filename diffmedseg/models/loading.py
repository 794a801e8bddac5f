"""Load the results of training: the settings of a run, its best checkpoint, and the model."""

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffmedseg.checkpoints import cannot_be_loaded
from diffmedseg.errors import ZooError
from diffmedseg.files import FormatError, file_sha256, read_json, read_yaml
from diffmedseg.models.building import build, checkpoint_config, checkpoint_run
from diffmedseg.models.segmenter import DiffusionSegmenter

#: Config, weights, their supervision (None if unknown), and the source of a fine-tuned model's initial weights.
Parts = tuple[Any, dict[str, torch.Tensor], str | None, dict[str, Any] | None]
RUN_CONFIG = "config.yaml"  # of a run of the command line


def load_trained(path: Path, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load a checkpoint, or the best checkpoint of a run's folder; see :func:`~diffmedseg.zoo.load_checkpoint`.

    Raises:
        ZooError: If there is no such file, it is not a checkpoint of a segmenter, or it names a class whose package is
            not trusted.
    """
    folder, path = path, best_checkpoint(path) if path.is_dir() else path
    if folder.is_dir() and not path.is_file():
        raise ZooError(f"{folder} is no run's folder: it has no checkpoints/{path.name}. Name a run or a checkpoint.")
    if not path.is_file():
        raise ZooError(f"There is no checkpoint {path}.")
    return load_parts(path, partial(_checkpoint_parts, path), trust)


def _checkpoint_parts(path: Path) -> Parts:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    history = checkpoint.get("learned_from"), checkpoint.get("initialisation")
    return checkpoint_config(checkpoint), checkpoint["state_dict"], *history


def load_parts(path: Path, parts: Callable[[], Parts], trust: Collection[str]) -> DiffusionSegmenter:
    """Build a model from a config and weights.

    Args:
        path: The file; error messages name it.
        parts: Reads config, weights and their history.
        trust: Packages whose classes may be built.

    Raises:
        ZooError: If config or weights are damaged, do not fit, or are not of a segmenter.
    """
    try:
        config, weights, learned_from, initialisation = parts()
        model = build(config, trust)
        if isinstance(model, DiffusionSegmenter):
            model.load_state_dict(weights)
            model.learned_from, model.initialisation = learned_from or model.learned_from, initialisation
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from error
    except Exception as error:  # a file can be anything
        raise ZooError(cannot_be_loaded(path, error)) from error
    if not isinstance(model, DiffusionSegmenter):
        raise ZooError(f"{path} describes a {type(model).__name__}, not a segmenter.")
    return model.eval()


def best_checkpoint(run: Path) -> Path:
    """Return the best checkpoint of a run: calibrated.ckpt if ``diffmedseg calibrate`` made it of the best."""
    best, calibrated = chosen_checkpoint(run), run / "checkpoints" / "calibrated.ckpt"
    report = run / "calibration.json"
    if not (calibrated.is_file() and best.is_file()):
        return best
    if report.is_file() and _calibrated_of(report) == file_sha256(best):
        return calibrated
    warnings.warn(f"{calibrated} was not made from this {best.name}, and is not used. Calibrate again.", stacklevel=3)
    return best


def _calibrated_of(report: Path) -> object:
    """Return the sha256 of the checkpoint that was calibrated."""
    try:
        return read_json(report)["checkpoint"]
    except (FormatError, KeyError, TypeError) as error:
        raise ZooError(f"{report} is damaged ({error}): calibrate again.") from error


def chosen_checkpoint(run: Path) -> Path:
    """Return the chosen checkpoint of a run.

    This is best.ckpt, or else the only checkpoint besides last.ckpt, or else last.ckpt. A run without validation has
    only last.ckpt.
    """
    folder = run / "checkpoints"
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    candidates = [path for path in folder.glob("*.ckpt") if path.stem not in {"last", "calibrated"}]
    if candidates or not last.is_file():
        return candidates[0] if len(candidates) == 1 and not best.is_file() else best
    warnings.warn(f"{run} has no best checkpoint, since nothing was validated. {last.name} is used.", stacklevel=3)
    return last


def read_run(run: Path) -> dict[str, Any]:
    """Return the settings of a run: its config.yaml, or the settings in its checkpoint if a script trained it.

    Raises:
        ZooError: If both are missing, or the file is damaged.
    """
    config, checkpoint = run / RUN_CONFIG, chosen_checkpoint(run)
    if config.is_file():
        return read_settings(config, ("model", "data", "trainer"))
    if not checkpoint.is_file():
        raise ZooError(f"{config} is missing: {run} is no run's folder.")
    try:
        return checkpoint_run(torch.load(checkpoint, map_location="cpu", weights_only=True))
    except ZooError as error:
        raise ZooError(f"{run}: {error}.") from error


def read_settings(path: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file of a run.

    Args:
        path: The file.
        parts: Names of the required mappings in it.

    Raises:
        ZooError: If the file is damaged, or a part is missing.
    """
    try:
        settings: dict[str, Any] = read_yaml(path)
        if not isinstance(settings, dict):
            raise TypeError("it holds no settings")
        missing = [part for part in parts if not isinstance(settings[part], dict)]
    except (FormatError, KeyError, TypeError) as error:
        raise ZooError(f"{path} is damaged ({error}): restore it, or train again.") from error
    if missing:
        raise ZooError(f"{path} is damaged (no settings under {', '.join(missing)}): restore it, or train again.")
    return settings
