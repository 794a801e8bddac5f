"""From a config to a model: only the classes named here are built, and nothing is ever unpickled."""

import functools
from collections.abc import Iterable
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

import torch

from diffmedseg.errors import ZooError as ZooError


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


def whole(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights in float32, whatever they are stored as."""
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
