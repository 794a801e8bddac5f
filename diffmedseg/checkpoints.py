"""Write checkpoints completely or not at all, and check them before a run starts."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from diffmedseg.atomic import write_alone
from diffmedseg.errors import CheckpointError as CheckpointError

#: Required keys of a checkpoint, for a test and for a resumed run.
TO_TEST = ("state_dict", "pytorch-lightning_version")
TO_RESUME = (*TO_TEST, "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")


class WholeFileIO(TorchCheckpointIO):
    """Writes checkpoints completely or not at all, even if the process is killed.

    Lightning writes to the system's temporary folder and moves the file. Between two file systems, the move is a copy,
    and a kill during the copy leaves half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401  Lightning's signature
        """Write to a temporary file beside ``path``, then rename it."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(Path(path), checkpoint)


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint completely or not at all.

    Raises:
        OSError: If the disk is full or not writable; the error names the file.
    """
    write_alone(path, partial(_save, checkpoint))


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # PyTorch hides the OSError of a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        file.flush()
        os.fsync(file.fileno())  # otherwise a crash of the machine may keep the name and lose the content


def cannot_be_loaded(path: Path, error: Exception) -> str:
    """Return the message for a file that is no usable checkpoint."""
    # The second sentence of torch's message recommends unsafe unpickling.
    first = " ".join(str(error).split()).split(". ")[0]
    reason = f"{type(error).__name__}: {first[:300]}"
    return f"{path} cannot be loaded: it is damaged, of another version, or no model of this project ({reason})."


def read_checkpoint(path: Path, needs: Sequence[str]) -> dict[str, Any]:
    """Read a checkpoint. Tensors stay in the file until they are used. Nothing is unpickled.

    Args:
        path: The file.
        needs: Keys that the checkpoint needs, such as ``TO_RESUME``.

    Raises:
        CheckpointError: If there is no such file, or it is damaged, or lacks a key.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if missing := [key for key in needs if key not in checkpoint]:
            raise KeyError(f"no {', '.join(missing)}")
    except Exception as error:  # a file can be anything
        raise CheckpointError(cannot_be_loaded(path, error)) from error
    return checkpoint


def check_weights(path: Path, checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Check that the weights of a checkpoint fit a model.

    Raises:
        CheckpointError: If a weight differs in name or shape; the message names it.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    stored = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    optional: tuple[str, ...] = getattr(model, "optional_weights", ())
    stored = {name: shape for name, shape in stored.items() if name in expected or not name.startswith(optional)}
    for name in [*expected, *stored]:
        if expected.get(name) != stored.get(name):
            shapes = (
                f"{stored.get(name, 'nothing')}, and the model of this configuration {expected.get(name, 'nothing')}"
            )
            error = ValueError(f"for {name} it has {shapes}")
            raise CheckpointError(cannot_be_loaded(path, error))


def check_encoder_rate(path: Path, checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Check that a resumed run gives the encoder a learning rate of its own, if and only if the checkpoint does.

    Raises:
        CheckpointError: If not: the optimiser has other groups of parameters.
    """
    now = getattr(model, "encoder_lr", 1)
    before = checkpoint.get("hyper_parameters", {}).get("encoder_lr", now)
    if (before == 1) != (now == 1):
        raise CheckpointError(
            f"{path} has encoder_lr {before:g}, and this run has {now:g}. A run that resumes cannot change it from 1 "
            f"or to 1: give --model.encoder_lr {before:g}, or start a new run."
        )
