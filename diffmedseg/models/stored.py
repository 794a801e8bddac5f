"""Checkpoints that hold the arguments of their model, and loading the model from them."""

import inspect
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters

from diffmedseg.configurable import Configurable, describe, is_unrecorded, public_path, to_config
from diffmedseg.models.building import build, checkpoint_config, find_obstacle, foreign_packages
from diffmedseg.plugins import trusted_packages
from diffmedseg.versions import installed_versions

_log = logging.getLogger(__name__)


#: Arguments that users may change on a built model; checkpoints store the changed values.
_CHANGEABLE = (
    *("threshold", "num_samples", "num_steps", "val_num_samples", "val_num_steps", "seed", "prior_share"),
    *("fusion", "refinement", "calibration", "conformal", "familiarity", "least_contrast", "value_range", "tta"),
)


class StoredModule(Configurable, LightningModule):
    """A module whose checkpoints, of any Trainer, hold the arguments to build it again."""

    #: Supervision of the weights, in words.
    learned_from: str = "masks"
    #: Source of the initial weights of a fine-tuned model: Initialisation.as_dict().
    initialisation: dict[str, Any] | None = None
    _stored: dict[str, Any]

    def _settle(self, **values: Any) -> None:
        """Record the values of arguments; checkpoints store all arguments and the path of the class.

        They are stored as plain data, which a safe loader accepts. If an argument does not record how it was built, and
        the command line built the model, the configuration of the command line is stored.
        """
        super()._settle(**values)
        config, hyperparameters = to_config(self), _given_hyperparameters.get() or {}
        stored = {name: hyperparameters[name] if is_unrecorded(value) and name in hyperparameters else value
                  for name, value in config["init_args"].items()}  # fmt: skip
        if is_unrecorded(stored.get("optimizer")):  # such as a lambda; a model loads without its optimiser
            del stored["optimizer"]
        self._stored = {"_class_path": config["class_path"]} | stored
        self.hparams.clear()
        self.save_hyperparameters(self._stored, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store arguments and training of the model, even if a subclass saves its own hyper-parameters."""
        names = [name for name in _CHANGEABLE if name in self._stored and hasattr(self, name)]
        current = {name: describe(getattr(self, name)) for name in names}
        checkpoint["hyper_parameters"] = self._stored | {k: v for k, v in current.items() if not is_unrecorded(v)}
        checkpoint["learned_from"] = self.learned_from
        checkpoint["initialisation"] = self.initialisation
        if self._trainer is not None:
            checkpoint["versions"] = installed_versions()
            checkpoint["trainer"] = {"precision": str(self.trainer.precision), "max_steps": self.trainer.max_steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore supervision and initialisation, which results name."""
        self.learned_from = checkpoint.get("learned_from", self.learned_from)
        self.initialisation = checkpoint.get("initialisation", self.initialisation)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's own also accepts pickles
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,  # noqa: ANN401  as of torch.load
        strict: bool = True,
        trust: Collection[str] = (),
        weights_only: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a checkpoint as Lightning does: in training mode, and with changed arguments of the constructor.

        Args:
            checkpoint_path: The checkpoint, of any Trainer.
            map_location: Device of the weights; None for their device in training.
            strict: Whether the names of the weights have to be exactly the model's.
            trust: Packages besides diffmedseg whose classes may be built; see :mod:`diffmedseg.plugins`.
            weights_only: Ignored: nothing is ever unpickled.
            kwargs: Arguments of the constructor that replace the arguments in the checkpoint, as values or objects.

        Raises:
            ZooError: If the checkpoint does not hold the model's arguments, or names a class of a package that is not
                trusted.
            TypeError: If the checkpoint holds a model of another class.
        """
        checkpoint = torch.load(checkpoint_path, map_location=map_location, weights_only=True)
        hyperparameters = {"_class_path": public_path(cls)} | checkpoint.get("hyper_parameters", {})
        model = build(checkpoint_config({"hyper_parameters": hyperparameters}), trust, **kwargs)
        if not isinstance(model, cls):
            raise TypeError(f"{checkpoint_path} holds a {type(model).__name__}, which is no {cls.__name__}.")
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"], strict=strict)
        return model.to(next(iter(checkpoint["state_dict"].values())).device)

    def _refused_arguments(self) -> str | None:
        """Return why the constructor of a subclass does not take the stored arguments; None if it does."""
        try:
            inspect.signature(type(self).__init__).bind(
                self, **{k: v for k, v in self._stored.items() if k != "_class_path"}
            )
        except TypeError as error:
            return (
                f"{type(self).__name__} takes other arguments than its base class ({error}): pass them on by **kwargs"
            )
        return None

    def untrusted_packages(self) -> list[str]:
        """Return the packages that have to be trusted to load the model's checkpoints."""
        config = {"class_path": self._stored["_class_path"], "init_args": dict(self._stored)}
        return sorted(set(foreign_packages(config)) - trusted_packages())

    def on_fit_start(self) -> None:
        """Warn before training if the checkpoints will not load, or need trusted packages to load."""
        config = {"class_path": self._stored["_class_path"], "init_args": self._stored}
        if not self.trainer.is_global_zero:
            return
        if obstacle := self._refused_arguments() or find_obstacle(config):
            _log.warning("The checkpoints of this run will not load again by themselves: %s.", obstacle)
        elif packages := self.untrusted_packages():
            flags = " ".join(f"--trust {package}" for package in packages)
            _log.warning("To load the checkpoints of this run: %s, or trust=%s in Python.", flags, packages)
