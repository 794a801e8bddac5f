"""Models that are named together: a list, an experiment's folder, or a pattern."""

import glob
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

from diffmedseg.errors import ZooError
from diffmedseg.files import expand_home
from diffmedseg.models.ensemble import Ensemble
from diffmedseg.models.loading import RUN_CONFIG, chosen_checkpoint, read_settings
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.zoo.loading import load_single
from diffmedseg.zoo.source import current_source

_PATTERN = re.compile(r"[*?[]")


def load_ensemble(names: Sequence[str | Path], trust: Collection[str] = ()) -> Segmenter:
    """Load several models as one; a single model is returned as it is.

    Args:
        names: Each a checkpoint, a run's folder, an entry of the zoo, an experiment's folder or a pattern; see
            :func:`find_members`.
        trust: See :func:`~diffmedseg.zoo.loading.load_pretrained`.

    Raises:
        ZooError: If a model is missing, named twice or cannot be loaded, or the models do not agree.
    """
    found = [member for name in names for member in find_members(name)]
    if twice := {member for member in found if found.count(member) > 1}:
        raise ZooError(f"{' and '.join(sorted(twice))} is named twice: name each member of an ensemble once.")
    members = {member: load_single(member, trust) for member in found}
    if len(members) == 1:
        return members[found[0]]
    try:
        return Ensemble(members)
    except ValueError as error:
        raise ZooError(str(error)) from error


def find_members(name: str | Path) -> list[str]:
    """Name the models that a name stands for.

    An experiment's folder stands for all its training runs, ``version_*``, such as its seeds or folds. A pattern, such
    as ``runs/chase.*/version_0``, stands for all runs, experiments and checkpoints that it fits. Any other name stands
    for itself.

    Raises:
        ZooError: If an experiment or a pattern has no model.
    """
    path = expand_home(name)
    if not str(name) or path.exists():
        return _of_experiment(path) if _runs_of(path) and not _is_run(path) else [str(name)]
    if not _PATTERN.search(str(name)):
        return [str(name)]
    fitting = [one for one in sorted(glob.glob(str(path), recursive=True)) if _has_model(Path(one))]
    if not fitting:
        raise ZooError(f"The pattern {name} fits no run, experiment or checkpoint.")
    return [member for one in fitting for member in find_members(one)]


def names_models(name: str) -> bool:
    """Whether a name stands for one or more models, as ``predict`` takes them before its inputs."""
    path = expand_home(name)
    if path.exists():
        return _has_model(path)
    if _PATTERN.search(name):
        fitting = glob.glob(str(path))
        return bool(fitting) and all(_has_model(Path(one)) for one in fitting)
    return current_source().has(name)


def _has_model(path: Path) -> bool:
    return path.suffix == ".ckpt" if path.is_file() else _is_run(path) or bool(_runs_of(path))


def _is_run(path: Path) -> bool:
    """Whether a folder is that of a training run."""
    return any((path / "checkpoints").glob("*.ckpt"))


def _runs_of(path: Path) -> list[Path]:
    """Return the training runs of an experiment, the numbered ones in order."""
    runs = [one for one in path.glob("version_*") if _is_run(one)] if path.is_dir() else []
    return sorted(runs, key=lambda one: (len(one.name), one.name))


def _of_experiment(path: Path) -> list[str]:
    runs = _runs_of(path)
    chosen = [run for run in runs if _has_chosen(run)]
    if not chosen:
        raise ZooError(
            f"No run of {path} has a checkpoints/best.ckpt yet: wait for a validation, or name a checkpoint."
        )
    for run in runs:
        if run not in chosen:
            warnings.warn(f"{run} has no checkpoints/best.ckpt yet, and is left out of the ensemble.", stacklevel=4)
    return [str(run) for run in chosen]


def _has_chosen(run: Path) -> bool:
    """Whether a run has the checkpoint that it is to be known by: one before its first validation has none yet."""
    has_last_alone = {path.stem for path in (run / "checkpoints").glob("*.ckpt")} == {"last"}
    if not has_last_alone:
        return chosen_checkpoint(run).is_file()
    config = run / RUN_CONFIG
    # A run that never validates has chosen its last weights.
    return config.is_file() and read_settings(config, ["trainer"])["trainer"].get("limit_val_batches") == 0
