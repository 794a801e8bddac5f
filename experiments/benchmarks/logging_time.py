"""What logging to W&B costs: seconds of an epoch with the CSV alone and with W&B offline, taking turns in one run.

Run ``python experiments/benchmarks/logging_time.py``. An epoch is training, validation, logging and checkpoints.
"""

import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from jsonargparse import auto_cli
from lightning import Callback, LightningModule, Trainer
from timing import hardware

from diffmedseg.cli import main as run

_EXPERIMENTS = Path(__file__).parents[1]


class EpochTimes(Callback):
    """Keeps when epochs begin; what is logged at the end of one counts to it."""

    starts: ClassVar[list[float]] = []  # of the run that was started last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last run."""
        EpochTimes.starts = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        EpochTimes.starts.append(time.perf_counter())


def main(rounds: int = 2, epochs: int = 4, steps: int = 25, pair: str = "medsegdiff/synthetic") -> None:
    """Print the median epoch of each, and the whole of each run, once to begin and once to end included.

    Args:
        rounds: Runs of each kind.
        epochs: Epochs of a run, of which the first warms up and does not count.
        steps: Training steps of an epoch; few make logging look dear.
        pair: Model and data, a yaml below experiments.
    """
    os.environ["WANDB_MODE"] = "offline"
    epoch: dict[str, list[float]] = {"csv": [], "wandb": []}
    whole: dict[str, list[float]] = {"csv": [], "wandb": []}
    for _ in range(rounds):
        for logger in epoch:
            with TemporaryDirectory() as folder:
                start = time.perf_counter()
                run(_arguments(folder, logger, epochs, steps, pair))
                whole[logger].append(time.perf_counter() - start)
                epoch[logger] += [after - before for before, after in pairwise(EpochTimes.starts[1:])]
    print(f"{hardware()}; epochs of {steps} steps, {len(epoch['csv'])} of each")
    for name, found in (("epoch", epoch), ("whole run", whole)):
        csv, wandb = (statistics.median(found[logger]) for logger in ("csv", "wandb"))
        print(f"{name}: CSV {csv:.2f} s, CSV and W&B {wandb:.2f} s, {wandb / csv - 1:+.1%}")
    for logger, seconds in epoch.items():
        print(f"epochs with {logger}: {', '.join(f'{one:.2f}' for one in seconds)} s")


def _arguments(folder: str, logger: str, epochs: int, steps: int, pair: str) -> list[str]:
    files = [_EXPERIMENTS / name for name in ("base.yaml", f"{pair}.yaml", f"logger/{logger}.yaml")]
    return [
        "fit",
        *(f"-c={file}" for file in files),
        f"--runs={folder}",
        # One step more, so that there is an end of the last epoch that counts.
        f"--trainer.max_steps={epochs * steps + 1}",
        f"--data.steps_per_epoch={steps}",
        f"--trainer.callbacks+={EpochTimes.__module__}.EpochTimes",
    ]


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
