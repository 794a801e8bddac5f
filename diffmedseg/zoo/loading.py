"""Load entries of a zoo, and checkpoints."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import overload

from safetensors.torch import load_file

from diffmedseg.errors import ZooError
from diffmedseg.files import expand_home, read_yaml
from diffmedseg.models.building import whole
from diffmedseg.models.loading import Parts, load_parts, load_trained
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.zoo.registry import CONFIG, WEIGHTS, Entry
from diffmedseg.zoo.source import Source, current_source


def load_model(name: str | Path | Sequence[str | Path], trust: Collection[str] = ()) -> Segmenter:
    """Load a model from a checkpoint, a run's folder or an entry of the zoo.

    Several models together form an ensemble: a list of them, an experiment's folder (all its runs, such as seeds or
    folds), or a pattern such as ``runs/chase.*/version_0``; see :class:`~diffmedseg.models.Ensemble`.

    Args:
        name: The file, the folder, or the name of the entry. A file or folder of the name takes precedence.
        trust: See :func:`load_pretrained`.

    Raises:
        ZooError: If there is nothing of that name (the message has similar names), the model cannot be loaded, or
            several models have different channels or regions.
    """
    from diffmedseg.zoo.members import load_ensemble  # above this module

    return load_ensemble([name] if isinstance(name, str | Path) else name, trust)


def load_single(name: str | Path, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load one model: a checkpoint, a run's folder or an entry of the zoo; see :func:`load_model`.

    Raises:
        ZooError: If there is nothing of that name (the message has similar names), or the model cannot be loaded.
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
        name: Name of the entry, see :func:`~diffmedseg.zoo.source.list_pretrained`. A list forms an ensemble, which may
            include runs and checkpoints; see :func:`load_model`.
        trust: Names of packages besides diffmedseg whose classes may be imported and built; see
            :mod:`diffmedseg.plugins`.

    Raises:
        ZooError: If there is no such entry or it is a recipe, a file is missing or its sha256 is wrong, or the config
            names a class of an untrusted package.
    """
    return load_entry(current_source(), name, trust) if isinstance(name, str) else load_model(name, trust)


def load_entry(source: Source, name: str, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load an entry of a zoo; see :func:`load_pretrained`."""
    return load_verified(name, *source.verified(name), trust)


def load_verified(name: str, folder: Path, entry: Entry, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load an entry from its folder after its files were checked."""
    if entry.status == "recipe":
        raise ZooError(f"{name} is a recipe without weights. Train it by `diffmedseg fit -c {folder / 'run.yaml'}`.")
    return load_parts(folder / CONFIG, partial(_entry_parts, folder, entry), trust)


def _entry_parts(folder: Path, entry: Entry) -> Parts:
    return read_yaml(folder / CONFIG), whole(load_file(folder / WEIGHTS)), entry.learned_from, None


def load_checkpoint(path: str | Path, trust: Collection[str] = ()) -> DiffusionSegmenter:
    """Load a trained checkpoint, with averaged weights if it has them, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint, or a run's folder for its best checkpoint (the calibrated one if there is one). Nothing is
            unpickled.
        trust: See :func:`load_pretrained`.

    Raises:
        ZooError: If there is no such file, it is no checkpoint of a segmenter, or it names a class of an untrusted
            package.
    """
    path = expand_home(path)
    if (path / WEIGHTS).is_file():
        raise ZooError(f"{path} is an entry of a zoo. Give its name, {path.name} (with DIFFMEDSEG_ZOO={path.parent}).")
    return load_trained(path, trust)
