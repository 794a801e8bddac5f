"""Load several models by a list, an experiment's folder, or a pattern."""

import glob
import re
import warnings
from collections.abc import Collection, Sequence
from difflib import get_close_matches
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
    """Load several models as an ensemble; return a single model as it is.

    Args:
        names: Checkpoints, runs' folders, entries of the zoo, experiments' folders or patterns; see
            :func:`find_members`.
        trust: See :func:`~diffmedseg.zoo.loading.load_pretrained`.

    Raises:
        ZooError: If a model is missing, named twice or cannot be loaded, or the models have different channels or
            regions.
    """
    paths = [member for name in names for member in find_members(name)]
    _refuse_repeats(paths)
    members = {member: load_single(member, trust) for member in paths}
    if len(members) == 1:
        return members[paths[0]]
    try:
        return Ensemble(members)
    except ValueError as error:
        raise ZooError(str(error)) from error


def _refuse_repeats(members: Sequence[str]) -> None:
    """Refuse members that are the same entry, or the same checkpoint under any path.

    Raises:
        ZooError: If a member is named twice.
    """
    names: dict[str | Path, str] = {}
    for member in members:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loading says what there is to say
            file = _file_of(member)
        if file in names:
            other = "" if names[file] == member else f": it is the same as {names[file]}"
            raise ZooError(f"{member} is named twice{other}. Name each member of an ensemble once.")
        names[file] = member


def _file_of(member: str) -> str | Path:
    """Return the checkpoint of a run, or the checkpoint itself, by its real path; the name of an entry as it is."""
    path = expand_home(member)
    if not member or not path.exists():
        return member
    return (chosen_checkpoint(path) if path.is_dir() else path).resolve()


def find_members(name: str | Path) -> list[str]:
    """Return the names of the models that a name stands for.

    An experiment's folder stands for all its training runs, ``version_*``, such as seeds or folds. A pattern, such as
    ``runs/chase.*/version_0``, stands for all matching runs, experiments and checkpoints. Any other name stands for
    itself.

    Raises:
        ZooError: If an experiment or a pattern has no model.
    """
    path = expand_home(name)
    if not str(name) or path.exists():
        return _of_experiment(path) if _runs_of(path) and not _is_run(path) else [str(name)]
    if not _PATTERN.search(str(name)):
        return [str(name)]
    matches = [match for match in sorted(glob.glob(str(path), recursive=True)) if _has_model(Path(match))]
    if not matches:
        raise ZooError(f"The pattern {name} matches no run, experiment or checkpoint.")
    return [member for match in matches for member in find_members(match)]


def names_models(name: str) -> bool:
    """Return whether a name stands for one or more models, for the arguments of ``predict``."""
    path = expand_home(name)
    if path.exists():
        return _has_model(path)
    if _PATTERN.search(name):
        matches = glob.glob(str(path))
        return bool(matches) and all(_has_model(Path(match)) for match in matches)
    return current_source().has(name)


def check_first_input(name: str) -> None:
    """Refuse an input that was meant as a model: no file has its name, and an entry has it, or nearly.

    Raises:
        ZooError: If the name is the name of an entry, or looks like a name.
    """
    if expand_home(name).exists() or _PATTERN.search(name):
        return
    source = current_source()
    if source.has(name):
        raise ZooError(f"{name} is a model, and no input follows it. Name pictures or folders after the models.")
    if get_close_matches(name, source.entries(), cutoff=0.8):
        raise source.nothing_named(name)


def _has_model(path: Path) -> bool:
    return path.suffix == ".ckpt" if path.is_file() else _is_run(path) or bool(_runs_of(path))


def _is_run(path: Path) -> bool:
    """Return whether a folder is the folder of a training run."""
    return any((path / "checkpoints").glob("*.ckpt"))


def _runs_of(path: Path) -> list[Path]:
    """Return the training runs of an experiment, in order of their numbers."""
    runs = [run for run in path.glob("version_*") if _is_run(run)] if path.is_dir() else []
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def _of_experiment(path: Path) -> list[str]:
    runs = _runs_of(path)
    chosen = [run for run in runs if _has_chosen_checkpoint(run)]
    if not chosen:
        raise ZooError(
            f"No run of {path} has a checkpoints/best.ckpt yet. Wait for a validation, or name a checkpoint."
        )
    for run in runs:
        if run not in chosen:
            warnings.warn(f"{run} has no checkpoints/best.ckpt yet and is left out of the ensemble.", stacklevel=4)
    return [str(run) for run in chosen]


def _has_chosen_checkpoint(run: Path) -> bool:
    """Return whether a run has chosen a checkpoint. Before its first validation it has not."""
    has_last_alone = {path.stem for path in (run / "checkpoints").glob("*.ckpt")} == {"last"}
    if not has_last_alone:
        return chosen_checkpoint(run).is_file()
    config = run / RUN_CONFIG
    # A run without validation chooses its last weights.
    return config.is_file() and read_settings(config, ["trainer"])["trainer"].get("limit_val_batches") == 0
