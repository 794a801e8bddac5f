"""Loading entries of a zoo, and checkpoints."""

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from safetensors.torch import load_file

from diffmedseg.checkpoints import cannot_be_loaded
from diffmedseg.files import FormatError, expand_home, file_sha256, read_json, read_yaml
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.zoo.building import ZooError, build, checkpoint_config, checkpoint_run, whole
from diffmedseg.zoo.registry import CONFIG, WEIGHTS, Entry
from diffmedseg.zoo.source import Source, current_source

#: Config, weights, what supervision these took, where that is known, and what a fine-tuned model started from.
_Parts = tuple[Any, dict[str, torch.Tensor], str | None, dict[str, Any] | None]
RUN_CONFIG = "config.yaml"  # of a run of the command line


def load_model(name: str | Path | Sequence[str | Path], trust: Collection[str] = ()) -> Segmenter:
    """Load a model from wherever it is: a checkpoint, a run's folder or an entry of the zoo.

    Several models together form an ensemble: a list of them, an experiment's folder (all its runs, such as seeds or
    folds), or a pattern such as ``runs/chase.*/version_0``; see :class:`~diffmedseg.models.Ensemble`.

    Args:
        name: The file, the folder, or the name of the entry; a file or folder of that name comes first.
        trust: See :func:`load_pretrained`.

    Raises:
        ZooError: If there is nothing of that name, with similar names, the model cannot be loaded, or several models
            do not agree in channels or regions.
    """
    from diffmedseg.zoo.members import load_ensemble  # above this module

    return load_ensemble([name] if isinstance(name, str | Path) else name, trust)


def load_single(name: str | Path, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load one model: a checkpoint, a run's folder or an entry of the zoo; see :func:`load_model`.

    Raises:
        ZooError: If there is nothing of that name, with similar names, or the model cannot be loaded.
    """
    if str(name) and expand_home(name).exists():
        return load_checkpoint(name, trust)
    source = current_source()
    if source.has(str(name)):
        return load_pretrained(str(name), trust)
    raise source.nothing_named(str(name))


@overload
def load_pretrained(name: str, trust: Collection[str] = ()) -> DiffusionSegmenter: ...


@overload
def load_pretrained(name: Sequence[str], trust: Collection[str] = ()) -> Segmenter: ...


def load_pretrained(name: str | Sequence[str], trust: Collection[str] = ()) -> Segmenter:
    """Load an entry: verified, with its averaged weights, in evaluation mode, on the CPU.

    Args:
        name: Name of the entry, see :func:`~diffmedseg.zoo.source.list_pretrained`. A list forms an ensemble, and may
            hold runs and checkpoints, too; see :func:`load_model`.
        trust: Names of packages besides diffmedseg whose classes may be imported and built; see
            :mod:`diffmedseg.plugins`.

    Raises:
        ZooError: If there is no such entry or it is a recipe, a file is missing or its sha256 is wrong, or the config
            names a class that is not ours and whose package is not trusted.
    """
    return load_entry(current_source(), name, trust) if isinstance(name, str) else load_model(name, trust)


def load_entry(source: Source, name: str, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load an entry of a zoo; see :func:`load_pretrained`."""
    return load_verified(name, *source.verified(name), trust)


def load_verified(name: str, folder: Path, entry: Entry, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load an entry from its folder, whose files were checked already."""
    if entry.status == "recipe":
        raise ZooError(
            f"{name} is a recipe: nobody has trained it yet. `diffmedseg fit -c {folder / 'run.yaml'}` does."
        )
    return _load(folder / CONFIG, partial(_entry_parts, folder, entry), trust)


def _entry_parts(folder: Path, entry: Entry) -> _Parts:
    return read_yaml(folder / CONFIG), whole(load_file(folder / WEIGHTS)), entry.learned_from, None


def load_checkpoint(path: str | Path, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load what a Trainer trained: with averaged weights where there are any, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint, or a run's folder: its best checkpoint, with its calibration where it has one. Nothing is
            unpickled.
        trust: See :func:`load_pretrained`.

    Raises:
        ZooError: If there is no such file, it is not a checkpoint of a segmenter, or it names a class whose package is
            not trusted.
    """
    path = expand_home(path)
    if (path / WEIGHTS).is_file():
        raise ZooError(f"{path} is an entry of a zoo: give its name, {path.name} (and DIFFMEDSEG_ZOO={path.parent}).")
    path = best_checkpoint(path) if path.is_dir() else path
    if not path.is_file():
        raise ZooError(f"There is no checkpoint {path}.")
    return _load(path, partial(_checkpoint_parts, path), trust)


def _checkpoint_parts(path: Path) -> _Parts:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    history = checkpoint.get("learned_from"), checkpoint.get("initialisation")
    return checkpoint_config(checkpoint), checkpoint["state_dict"], *history


def _load(path: Path, parts: Callable[[], _Parts], trust: Collection[str]) -> DiffusionSegmenter:
    """Build a model from a config and weights, whatever is wrong with them.

    Args:
        path: The file that is named where something is.
        parts: Reads them.
        trust: Packages whose classes may be built.
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
    """Return the best checkpoint of a run: the calibrated one, where ``diffmedseg calibrate`` made it of the best."""
    best, calibrated = chosen_checkpoint(run), run / "checkpoints" / "calibrated.ckpt"
    said = run / "calibration.json"
    if not (calibrated.is_file() and best.is_file()):
        return best
    if said.is_file() and _calibrated_of(said) == file_sha256(best):
        return calibrated
    warnings.warn(f"{calibrated} was not made of {best.name} as it is, and is left out: calibrate again.", stacklevel=3)
    return best


def _calibrated_of(said: Path) -> object:
    """Return the sha256 of the checkpoint that a calibration was made of."""
    try:
        return read_json(said)["checkpoint"]
    except (FormatError, KeyError, TypeError) as error:
        raise ZooError(f"{said} is damaged ({error}): calibrate again.") from error


def chosen_checkpoint(run: Path) -> Path:
    """Return the checkpoint that a run chose: best.ckpt, or the only one there is besides last.ckpt, or else last.ckpt.

    A run without validation has last.ckpt alone.
    """
    folder = run / "checkpoints"
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    others = [path for path in folder.glob("*.ckpt") if path.stem not in {"last", "calibrated"}]
    if others or not last.is_file():
        return others[0] if len(others) == 1 and not best.is_file() else best
    warnings.warn(f"{run} has no best checkpoint, since nothing was validated: {last.name} is taken.", stacklevel=3)
    return last


def read_run(run: Path) -> dict[str, Any]:
    """Return the settings of a run: its config.yaml, or what its checkpoint says where a script trained it.

    Raises:
        ZooError: If there is neither, or the file is damaged.
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
        parts: Names of the mappings that it has to hold.

    Raises:
        ZooError: If the file is damaged or lacks one of them.
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
