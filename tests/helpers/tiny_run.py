"""A training run small enough for tests."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from diffmedseg.callbacks import WarmupEMA
from diffmedseg.data import SyntheticDataModule
from diffmedseg.models import Denoiser, MedSegDiffSegmenter, MedSegDiffV1
from diffmedseg.recipes import recipe
from helpers.small_networks import FewWeights, small

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = [
    "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.precision=32-true",
    "--trainer.log_every_n_steps=1", "--data.image_size=16", "--data.batch_size=2", "--data.steps_per_epoch=1",
    "--data.num_train=24", "--data.num_val=2", "--data.num_test=3", "--model.num_samples=2", "--model.num_steps=2",
    "--model.val_num_steps=1",
]  # fmt: skip


def tiny_fit(runs: Path, *options: str, model: str = "medsegdiff-lite") -> list[str]:
    return ["train", model, "synthetic", *TINY, f"--runs={runs}", *options]


def copy_run(run: Path, runs: Path) -> Path:
    """Copy a run into another folder of runs; what starts from its config writes there, too."""
    copy = runs / run.parent.name / run.name
    shutil.copytree(run, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parents[1]), str(runs)))
    return copy


def tiny_command(command: str, runs: Path, *options: str) -> list[str]:
    """The same configuration for a command of LightningCLI, ``fit`` or ``test``."""
    return [command, *recipe("medsegdiff-lite", "synthetic").arguments, *TINY, f"--runs={runs}", *options]


def tiny_data(**options: Any) -> SyntheticDataModule:
    settings = {"num_train": 24, "num_val": 4, "num_test": 4, "image_size": 16, "batch_size": 4, "steps_per_epoch": 3}
    return SyntheticDataModule(**settings | options)


def tiny_model(network: Denoiser | None = None, **options: Any) -> MedSegDiffSegmenter:
    """Build a small model, MedSegDiff V1 unless there is another network."""
    network = small(MedSegDiffV1).train() if network is None else network
    settings: dict[str, Any] = {"image_size": (16, 16), "warmup_steps": 2}
    settings |= {"num_samples": 2, "num_steps": 2, "val_num_samples": 1, "val_num_steps": 1}
    return MedSegDiffSegmenter(network, **settings | options)


def plain_model(**options: Any) -> MedSegDiffSegmenter:
    """Build a model of a few weights, for tests of the training loop: a run takes a third of the time."""
    torch.manual_seed(0)
    return tiny_model(FewWeights(), **options)


def checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """The two of experiments/base.yaml."""
    settings: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(folder, "best", monitor="val/score", mode="max", **settings)
    return [best, ModelCheckpoint(folder, "last", **settings)]


def tiny_trainer(folder: Path, *, callbacks: Sequence[Callback] | None = None, **options: Any) -> Trainer:
    chosen = [WarmupEMA(), *checkpoints(folder)] if callbacks is None else callbacks
    settings: dict[str, Any] = {"accelerator": "cpu", "max_steps": 9, "logger": False, "enable_progress_bar": False}
    settings |= {"num_sanity_val_steps": 0}
    return Trainer(
        callbacks=list(chosen),
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
        **settings | options,
    )


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)
