"""Cost of logging to W&B: in one run, every other epoch logs only to the CSV, and the times are compared.

Run ``python experiments/benchmarks/logging_time.py``. An epoch includes training, validation, logging and checkpoints.
"""

import os
import statistics
import time
from collections import defaultdict
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from jsonargparse import auto_cli
from lightning import Callback, LightningModule, Trainer
from timing import hardware

from diffmedseg.callbacks import WandbDashboard
from diffmedseg.cli import main as run


class TakeTurns(Callback):
    """Hides W&B from every other epoch, and reads the clock at the start of each epoch."""

    starts: ClassVar[list[tuple[float, float]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the loggers and the W&B dashboard."""
        self.loggers = list(trainer.loggers)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        [self.dashboard] = [callback for callback in callbacks if isinstance(callback, WandbDashboard)]
        self.logger = self.dashboard.logger

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch between CSV alone and W&B; the CSV comes first."""
        TakeTurns.starts.append((time.perf_counter(), time.process_time()))
        logged = trainer.current_epoch % 2 == 1
        trainer.loggers = self.loggers if logged else self.loggers[:1]
        self.dashboard.logger = self.logger if logged else None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore W&B."""
        trainer.loggers, self.dashboard.logger = self.loggers, self.logger


def main(epochs: int = 12, steps: int = 25, model: str = "medsegdiff-lite", data: str = "synthetic") -> None:
    """Print the median epoch of both kinds, in wall-clock time and in processor time of the training process.

    Args:
        epochs: Number of epochs. The first two warm up, and do not count.
        steps: Training steps per epoch. With few steps, the relative cost of logging is high.
        model: Name of the model.
        data: Name of the data set.
    """
    os.environ["WANDB_MODE"] = "offline"
    with TemporaryDirectory() as folder:
        settings = [
            f"--runs={folder}",
            # One more step, so that the last epoch that counts has an end.
            f"--trainer.max_steps={epochs * steps + 1}",
            f"--data.steps_per_epoch={steps}",
            f"--trainer.callbacks+={TakeTurns.__module__}.TakeTurns",
        ]
        run(["train", model, data, "--logger=wandb", *settings])
    epochs_by_kind = defaultdict(list)
    for number, (start, end) in enumerate(pairwise(TakeTurns.starts)):
        if number >= 2:
            epochs_by_kind[number % 2].append([b - a for a, b in zip(start, end, strict=True)])
    print(f"\n{hardware()}; epochs of {steps} steps taking turns, {len(epochs_by_kind[1])} of each kind")
    for k, name in enumerate(("by the clock", "processor time")):
        csv, wandb = ([times[k] for times in epochs_by_kind[kind]] for kind in (0, 1))
        middle = statistics.median(csv), statistics.median(wandb)
        print(f"{name}: CSV {middle[0]:.2f} s, and W&B {middle[1]:.2f} s, {middle[1] / middle[0] - 1:+.1%}")
        print(f"  CSV {' '.join(f'{s:.2f}' for s in csv)}; and W&B {' '.join(f'{s:.2f}' for s in wandb)}")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
