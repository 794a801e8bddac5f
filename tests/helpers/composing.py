"""Build what configuration files describe, without a run."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from diffmedseg.cli import training
from diffmedseg.cli.lightning_cli import DiffMedSegCLI
from diffmedseg.models.encoders import weights_follow
from diffmedseg.recipes import recipe


class Quiet(DiffMedSegCLI):
    """Build everything a configuration describes, without a run's folder."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build a Trainer that writes nothing."""
        return Trainer(logger=False, enable_checkpointing=False)


def instantiate(files: Iterable[str | Path], *options: str) -> DiffMedSegCLI:
    """Build what files and options describe; networks of the papers' sizes on the meta device."""
    files = list(files)
    arguments = [part for file in files for part in ("-c", str(file))]
    large = any(Path(file).stem.startswith(("paper", "released")) for file in files)
    with pytest.MonkeyPatch.context() as patch, torch.device("meta" if large else "cpu"):
        patch.setattr(training, "DiffMedSegCLI", Quiet)
        return training._cli([*arguments, *options], run=False)


@cache
def compose(model: str, data: str, *options: str) -> DiffMedSegCLI:
    """Build the run of ``diffmedseg train`` with these arguments, but those that only the command knows."""
    of_command = ("--preset=", "--name=", "--encoder=")
    own: Any = dict(option[2:].split("=", 1) for option in options if option.startswith(of_command))
    rest = [option for option in options if not option.startswith((*of_command, "--logger="))]
    run = recipe(model, data, **own)
    network = [argument for argument in run.arguments if argument.startswith("--model.denoiser=")]
    with weights_follow():  # an encoder's package need not be installed
        return instantiate(run.files, f"--experiment={run.name}", *network, *run.settings, *rest)


def name(path: Path) -> str:
    """Return a configuration file's folder and name, as an identifier of tests."""
    return f"{path.parent.name}/{path.stem}"
