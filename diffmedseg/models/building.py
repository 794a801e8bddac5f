"""Build a model from a config. Only allowed and trusted classes are built, and nothing is unpickled."""

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_args

import torch
from torch import nn

from diffmedseg.configurable import Configurable, init_types, public_path, unrecorded
from diffmedseg.errors import ZooError
from diffmedseg.lazy import import_names
from diffmedseg.models.encoders import weights_follow
from diffmedseg.moved import MOVED
from diffmedseg.plugins import PluginError, check_trusted, load_class

#: Schedulers of diffusers that sample with the project's noise schedules; see ReverseProcess.
_SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
_OPTIMIZER = "optimizer"


@functools.cache
def allowed_classes() -> Mapping[str, type]:
    """Return the classes that every config may name, by their public path.

    These are all parts of diffmedseg's models, the whitening of images, the schedulers of diffusers for sampling, and
    the optimisers of torch.optim.
    """
    from diffmedseg import models, postprocessing
    from diffmedseg.data.labels import BorderWhitening, FieldOfView

    for package in (models, postprocessing):  # the names of these packages include all parts
        import_names(package)

    def below(cls: type) -> Iterable[type]:
        derived: list[type] = cls.__subclasses__()
        for sub in derived:
            yield sub
            yield from below(sub)

    allowed = {public_path(cls): cls for cls in below(Configurable)
               if _is_ours(cls.__module__) and not inspect.isabstract(cls)}  # fmt: skip
    allowed |= {f"{old}.{cls.__name__}": cls for old, new in MOVED.items() for cls in allowed.values()
                if cls.__module__ == new}  # fmt: skip
    allowed |= {public_path(cls): cls for cls in (BorderWhitening, FieldOfView)}  # the whitening of DiffSeg
    allowed["diffmedseg.crf.CRFSettings"] = postprocessing.CRFSettings  # a dataclass, which older configs may name
    diffusers = import_module("diffusers")
    allowed |= {f"diffusers.{name}": getattr(diffusers, name) for name in _SCHEDULERS}
    optimizers = {name: cls for name, cls in vars(torch.optim).items() if _is_optimizer(cls)}
    return allowed | {f"torch.optim.{name}": cls for name, cls in optimizers.items()}


def _is_ours(path: str) -> bool:
    """Return whether a class belongs to diffmedseg's models; classes of data are not part of models."""
    return path.startswith("diffmedseg.") and not path.startswith("diffmedseg.data.")


def _is_optimizer(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, torch.optim.Optimizer) and thing is not torch.optim.Optimizer


def build(config: Any, trust: Collection[str] = (), **changes: Any) -> Any:  # noqa: ANN401
    """Build the object that a config describes.

    An optimiser becomes a function that makes it from parameters. If its class is neither of torch.optim nor trusted,
    the model is built, but cannot be trained. Pretrained encoders are not fetched, because weights follow.

    Args:
        config: ``class_path`` and ``init_args``; see :mod:`diffmedseg.configurable`.
        trust: Packages besides diffmedseg whose classes may be built.
        changes: Arguments of the outermost class that replace arguments in the config.

    Raises:
        ZooError: If the config names a class of a package that is not trusted, or a class that is not part of a model.
            Nothing is imported in this case.
    """
    if isinstance(config, Mapping) and changes:
        config = {**config, "init_args": {**config.get("init_args", {}), **changes}}
    _check(config, trust)
    with weights_follow():
        return _build(config, trust)


def _check(config: Any, trust: Collection[str]) -> None:  # noqa: ANN401
    """Check a config before any of its classes is imported."""
    if missing := unrecorded(_without_optimizers(config)):
        argument, value = next(iter(missing.items()))
        raise ZooError(f"The config does not say how {argument or 'the model'} was built: it was {value}.")
    try:
        for path in class_paths(config):
            if path not in allowed_classes():
                check_trusted(path, trust)
    except PluginError as error:
        raise ZooError(str(error)) from error


def class_paths(config: Any) -> list[str]:  # noqa: ANN401
    """Return the classes that a config names, without optimisers, which no model needs."""
    if isinstance(config, list):
        return [path for item in config for path in class_paths(item)]
    if not isinstance(config, Mapping):
        return []
    outermost = [config["class_path"]] if "class_path" in config else []
    return outermost + [path for item in _without_optimizers(config).values() for path in class_paths(item)]


def _without_optimizers(config: Any) -> Any:  # noqa: ANN401
    if isinstance(config, list):
        return [_without_optimizers(item) for item in config]
    if not isinstance(config, Mapping):
        return config
    return {key: _without_optimizers(item) for key, item in config.items() if key != _OPTIMIZER}


def _build(config: Any, trust: Collection[str]) -> Any:  # noqa: ANN401
    if isinstance(config, list):
        return [_build(item, trust) for item in config]
    if not isinstance(config, dict):
        return config
    is_class = "class_path" in config
    arguments = {key: _make_optimizer(value, trust) if key == _OPTIMIZER else _build(value, trust)
                 for key, value in (config.get("init_args", {}) if is_class else config).items()}  # fmt: skip
    if not is_class:
        return arguments
    cls = find_class(config["class_path"], trust)
    arguments = {key: _as_declared(cls, key, value) for key, value in arguments.items()}
    return functools.partial(cls, **arguments) if _is_optimizer(cls) else cls(**arguments)


def find_class(path: str, trust: Collection[str] = ()) -> Any:  # noqa: ANN401  of any part of a model
    """Return a class that a config names: one of ours, or of a package that is trusted.

    Raises:
        ZooError: If it is neither; the message says what to do.
    """
    if path in allowed_classes():
        return allowed_classes()[path]
    try:
        return load_class(path, trust, (Configurable, nn.Module, torch.optim.Optimizer))
    except PluginError as error:
        raise ZooError(str(error)) from error


def _make_optimizer(config: Any, trust: Collection[str]) -> Any:  # noqa: ANN401
    """Build a function that makes an optimiser; for an unknown class, a function that raises an error."""
    if not isinstance(config, dict) or "class_path" not in config:
        return config
    try:
        return _build(config, trust)
    except Exception as error:  # importing a user's code can raise anything
        return functools.partial(_refuse, f"{config['class_path']} ({error})")


def _refuse(optimizer: str, parameters: object) -> torch.optim.Optimizer:
    raise ZooError(
        f"The model was trained by an optimiser that cannot be built here: {optimizer} To train it further, load it "
        "with optimizer=torch.optim.AdamW, or another optimiser."
    )


def _as_declared(cls: type, name: str, value: Any) -> Any:  # noqa: ANN401
    """Turn a dict into the dataclass of the constructor's annotation, for which configs name no class."""
    if not isinstance(value, dict):
        return value
    declared = init_types(cls).get(name)
    types = (declared, *get_args(declared))
    dataclasses = [candidate for candidate in types if isinstance(candidate, type) and is_dataclass(candidate)]
    make: Callable[..., Any] = dataclasses[0] if dataclasses else dict
    return make(**value)


def checkpoint_config(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the model of a checkpoint, for :func:`build`.

    Raises:
        ZooError: If the checkpoint does not say how its model was built.
    """
    hparams = _as_config(checkpoint["hyper_parameters"])
    if hparams is None:
        raise ZooError(
            "The checkpoint has no arguments of its model: an older version wrote it from Python. Build the model with "
            "the same arguments, and load the checkpoint's state_dict into it."
        )
    return hparams


def checkpoint_run(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that its checkpoint stores, in the form of config.yaml.

    Raises:
        ZooError: If the checkpoint does not say how its data was built.
    """
    data = _as_config(checkpoint.get("datamodule_hyper_parameters", {}))
    if data is None:
        raise ZooError(
            "neither a config.yaml nor the checkpoint says how the data was built: derive the data module from "
            "diffmedseg.data.SegmentationDataModule, and train again"
        )
    model = checkpoint_config(checkpoint)
    run = {"seed_everything": model["init_args"]["seed"], "trainer": checkpoint["trainer"]}
    return run | {"model": model, "data": data}


def _as_config(hparams: dict[str, Any]) -> dict[str, Any] | None:
    arguments = {key: value for key, value in hparams.items() if key != "_instantiator"}
    return {"class_path": arguments.pop("_class_path"), "init_args": arguments} if "_class_path" in arguments else None


def whole(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights in float32, whatever their stored type."""
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def foreign_packages(config: Any) -> list[str]:  # noqa: ANN401
    """Return the packages besides diffmedseg that have to be trusted to build a config."""
    paths = [path for path in class_paths(config) if "." in path and path not in allowed_classes()]
    return sorted({path.partition(".")[0] for path in paths} - {"diffmedseg"})


def find_obstacle(config: Any) -> str | None:  # noqa: ANN401
    """Return why another process could not build a model of this process; None if it could.

    Nothing is imported: this process has already imported the classes.
    """
    for argument, value in unrecorded(_without_optimizers(config)).items():
        return f"{argument} is {value}, which does not record its arguments (diffmedseg.configurable.Configurable does)"
    for path in class_paths(config):
        module, _, name = path.rpartition(".")
        if module == "__main__":
            return f"{name} is defined in the script that runs: move it into a module, and import it from there"
        if "<locals>" in path or not isinstance(getattr(sys.modules.get(module), name, None), type):
            return f"{path} cannot be imported by its name: define the class at the top level of a module"
    return None
