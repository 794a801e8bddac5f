"""Pretrained models: listing, loading and exporting.

An entry is a folder with ``config.yaml`` (what rebuilds the model), ``model.safetensors`` (averaged weights),
``run.yaml`` (what trains it again), ``cases.csv`` (per-case scores) and ``README.md`` (the card). ``registry.yaml``
names the entries and the hash of each file but the card. Nothing is ever unpickled, hashes are checked first, and only
the classes named here are built.
"""

import functools
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import is_dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import yaml
from safetensors.torch import load_file, save_file

from diffmedseg.atomic import write_whole
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.zoo_card import write_card

REGISTRY_VERSION = 1
_CONFIG, _WEIGHTS, _RUN = "config.yaml", "model.safetensors", "run.yaml"


def _public(module: str, names: Iterable[str]) -> dict[str, type]:
    return {f"{module}.{name}": getattr(import_module(module), name) for name in names}


#: The classes that a config may name, by their exact public path.
ALLOWED: dict[str, type] = {
    **_public(
        "diffmedseg.models",
        (
            "ClassConditionalUNet",
            "DiffSegSegmenter",
            "MedSegDiffLite",
            "MedSegDiffSegmenter",
            "MedSegDiffV1",
            "MedSegDiffV2",
            "ResidualUNet",
            "SMPNetwork",
            "SupervisedSegmenter",
            "TwoTowerUNet",
        ),
    ),
    **_public("diffmedseg.models.diffseg.decision", ("FixedLevel", "MultipleOfMean", "Otsu")),
    **_public(
        "diffmedseg.models.diffseg.difference",
        ("NoisePredictionDifference", "PartialDenoisingDifference", "ReleasedDifference"),
    ),
    **_public("diffmedseg.crf", ("CRFSettings", "DenseCRF", "RandomSubsetCRF")),
    **_public("diffmedseg.refinement", ("LargestComponent",)),
    **_public("diffmedseg.diffusion", ("NoiseProcess", "ReverseProcess", "DiffusionLoss", "PriorLoss")),
    **_public("diffmedseg.calibration", ("IsotonicCalibration", "TemperatureScaling")),
    **_public("diffmedseg.conformal", ("Conformal",)),
    **_public("diffmedseg.fusion", ("MajorityFusion", "MeanFusion", "STAPLEFusion")),
    **_public(
        "diffusers",
        ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
    ),
    **_public("torch.optim", ("AdamW", "Adam", "SGD")),
}


class ZooError(RuntimeError):
    """An entry that is missing, damaged or not to be trusted; the message says which and what to do."""


def zoo_folder() -> Path:
    """Return the zoo: ``$DIFFMEDSEG_ZOO``, else the one in the installed package or in the repository."""
    if "DIFFMEDSEG_ZOO" in os.environ:
        return Path(os.environ["DIFFMEDSEG_ZOO"])
    package = Path(__file__).parent
    installed = package / "_zoo"
    return installed if installed.is_dir() else package.parent / "zoo"


def read_registry(zoo: Path) -> dict[str, Any]:
    """Read the entries of a zoo by name; a folder without a registry has none.

    Raises:
        ZooError: If the registry is damaged or of another version.
    """
    path = zoo / "registry.yaml"
    if not path.is_file():
        return {}
    try:
        registry = yaml.safe_load(path.read_text())
        version, entries = registry["version"], registry["entries"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ZooError(f"{path} is damaged ({error}): restore it.") from error
    if version != REGISTRY_VERSION:
        raise ZooError(f"{path} has version {version}; this diffmedseg reads {REGISTRY_VERSION}: update the older one.")
    return dict(entries)


def _entry_folder(zoo: Path, name: str) -> Path:
    folder = zoo / name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ZooError(f"{name!r} is no name of an entry, or leaves {zoo}: use letters, digits, dots, - and _.")
    if folder.resolve().parent != zoo.resolve():
        raise ZooError(f"{name!r} is not a name of an entry: it leaves {zoo}.")
    return folder


def list_pretrained() -> list[str]:
    """Return the names of the entries."""
    return sorted(read_registry(zoo_folder()))


def load_pretrained(name: str) -> DiffusionSegmenter:
    """Load an entry: verified, with its averaged weights, in evaluation mode, on the CPU.

    Args:
        name: Name of the entry, see :func:`list_pretrained`.

    Raises:
        ZooError: If there is no such entry, a file is missing or its sha256 is wrong, or the config names a class
            outside ``ALLOWED``.
    """
    zoo = zoo_folder()
    entries = read_registry(zoo)
    if name not in entries:
        raise ZooError(f"{zoo} has no entry {name!r}. It has: {', '.join(sorted(entries)) or 'none'}.")
    folder = _entry_folder(zoo, name)
    for file, expected in entries[name]["sha256"].items():
        path = folder / file
        if not path.is_file():
            raise ZooError(f"{path} is missing: restore the entry or export it again.")
        if (found := file_sha256(path)) != expected:
            raise ZooError(
                f"{path} has sha256 {found}, the registry says {expected}: the file is damaged or was "
                "changed. Restore it."
            )
    missing = {_CONFIG, _WEIGHTS} - entries[name]["sha256"].keys()
    if missing:
        raise ZooError(
            f"The registry has no sha256 of {', '.join(sorted(missing))} of {name!r}: it cannot be verified."
        )
    model = build(yaml.safe_load((folder / _CONFIG).read_text()))
    if not isinstance(model, DiffusionSegmenter):
        raise ZooError(f"{folder / _CONFIG} describes a {type(model).__name__}, not a segmenter.")
    weights = {
        key: value.float() if value.is_floating_point() else value
        for key, value in load_file(folder / _WEIGHTS).items()
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ZooError(f"{folder / _WEIGHTS} does not fit {_CONFIG}: {error}") from error
    return model.eval()


def load_checkpoint(path: str | Path) -> DiffusionSegmenter:
    """Load what a run trained: with its averaged weights, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint, or a run's folder: its best checkpoint, with its calibration where it has one. Nothing is
            unpickled.

    Raises:
        ZooError: If there is no such file, or it is not a checkpoint of this project's command line.
    """
    path = Path(path).expanduser()
    if (path / _WEIGHTS).is_file():
        raise ZooError(f"{path} is an entry of a zoo: give its name, {path.name} (and DIFFMEDSEG_ZOO={path.parent}).")
    path = best_checkpoint(path) if path.is_dir() else path
    if not path.is_file():
        raise ZooError(f"There is no checkpoint {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model = build(checkpoint_config(checkpoint))
        model.load_state_dict(checkpoint["state_dict"])
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from error
    except Exception as error:  # a file can be anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ZooError(
            f"{path} cannot be loaded: it is damaged, of another version, or no checkpoint of this project ({reason})."
        ) from error
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


def build(config: Any) -> Any:  # noqa: ANN401
    """Build what a resolved config describes, from allowed classes alone.

    An optimiser becomes what makes it from parameters. Pretrained encoders are not fetched: the entry has the weights.

    Raises:
        ZooError: If a class is not allowed.
    """
    if isinstance(config, list):
        return [build(item) for item in config]
    if not isinstance(config, dict):
        return config
    if "class_path" not in config:
        return {key: build(value) for key, value in config.items()}
    path = config["class_path"]
    if path not in ALLOWED:
        raise ZooError(f"The config names the class {path!r}, which the zoo does not build.")
    arguments = {key: build(value) for key, value in config.get("init_args", {}).items()}
    if "encoder_weights" in arguments:
        arguments["encoder_weights"] = None
    cls = ALLOWED[path]
    arguments = {key: _as_declared(cls, key, value) for key, value in arguments.items()}
    return functools.partial(cls, **arguments) if issubclass(cls, torch.optim.Optimizer) else cls(**arguments)


def _as_declared(cls: type, name: str, value: Any) -> Any:  # noqa: ANN401
    """Turn a dict into the dataclass that a constructor declares in its place: configs name no class for these."""
    if not isinstance(value, dict):
        return value
    declared = get_type_hints(cls.__init__).get(name)  # type: ignore[misc]  # of a class, not of an instance
    found = [one for one in (declared, *get_args(declared)) if isinstance(one, type) and is_dataclass(one)]
    return found[0](**value) if found else value


def checkpoint_config(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what rebuilds the model of a checkpoint, for :func:`build`.

    Raises:
        ZooError: If the checkpoint was not trained from the command line.
    """
    hparams = {key: value for key, value in checkpoint["hyper_parameters"].items() if key != "_instantiator"}
    if "_class_path" not in hparams:
        raise ZooError("The checkpoint was not trained from the command line: it lacks its model's config.")
    return {"class_path": hparams.pop("_class_path"), "init_args": hparams}


def export(run: Path, name: str, zoo: Path | None = None, half: bool = True, notes: str = "") -> Path:
    """Make a zoo entry of a finished run.

    Args:
        run: The run's folder, with checkpoints, config.yaml and cases.csv; calibrated where it is.
        name: Name of the entry: model_data.tag, such as medsegdiff-v1_synthetic.tiny.
        zoo: The zoo; None for the current one.
        half: Store float16, half the size.
        notes: What the card should say besides, such as the hardware, and where the model fails.

    Returns:
        The entry's folder.

    Raises:
        ZooError: If the run is not complete or the name is taken.
    """
    run, zoo = Path(run), Path(zoo or zoo_folder())
    entry = _entry_folder(zoo, name)
    weights_path, settings_path, cases_path = best_checkpoint(run), run / "config.yaml", run / "cases.csv"
    for path in (weights_path, settings_path, cases_path):
        if not path.is_file():
            raise ZooError(f"{path} is missing: {run} is not a finished run of this project.")
    entries = read_registry(zoo)
    if name in entries or entry.exists():
        raise ZooError(
            f"{zoo} has an entry {name!r} already: choose another tag. (If `zoo list` does not name it, its export was "
            f"interrupted: delete {entry}.)"
        )
    checkpoint = torch.load(weights_path, map_location="cpu", weights_only=True)
    config = checkpoint_config(checkpoint)
    build(config)  # refuses what could not be loaded again
    dtype = torch.float16 if half else torch.float32
    weights = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for key, value in checkpoint["state_dict"].items()
    }
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise ZooError(f"The weights of {run} are not finite as {dtype}: export with half=False, or look at the run.")
    zoo.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".export-") as temporary:
        folder = Path(temporary) / name
        folder.mkdir()
        save_file(weights, folder / _WEIGHTS)
        (folder / _CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        shutil.copy(cases_path, folder / "cases.csv")
        settings = _portable(yaml.safe_load(settings_path.read_text()))
        (folder / _RUN).write_text(yaml.safe_dump(settings, sort_keys=False))
        learned_from = checkpoint.get("learned_from", "masks")
        write_card(folder, name, config, settings, checkpoint["global_step"], learned_from, notes)
        hashes = {file: file_sha256(folder / file) for file in (_CONFIG, _WEIGHTS, _RUN, "cases.csv")}
        os.replace(folder, entry)
    entries[name] = {"status": "trained", "bytes": (entry / _WEIGHTS).stat().st_size, "sha256": hashes}
    registry = yaml.safe_dump({"version": REGISTRY_VERSION, "entries": entries})
    write_whole(zoo / "registry.yaml", lambda temporary: temporary.write_text(registry))
    return entry


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Take the places of one machine, and who used it, out of a run's settings."""
    data = settings["data"]["init_args"]
    if "root" in data:
        data["root"] = f"data/{settings['experiment'].split('-')[-1]}"
    kept = {name: value for name, value in settings.items() if name != "logger"}
    return kept | {"runs": "runs", "ckpt_path": None}


def file_sha256(path: Path) -> str:
    """Return the hash of a file, as 64 hexadecimal digits."""
    return sha256(path.read_bytes()).hexdigest()
