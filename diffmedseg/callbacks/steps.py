"""Log statistics of training steps."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class StepStatistics(Callback):
    """Logs ``train/gradient_norm`` (before clipping) and ``train/images_per_second`` (of the epoch so far).

    Steps do not wait for the device. (Lightning's ThroughputMonitor waits at each step.)
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock. A run that resumes within an epoch has no start of the epoch."""
        self._start, self._images = time.perf_counter(), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock, without the validation between epochs."""
        self.on_train_start(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm over all gradients."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        pl_module.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Log the images per second of all processes."""
        self._images += len(batch["image"]) * trainer.world_size
        rate = self._images / (time.perf_counter() - self._start)
        pl_module.log("train/images_per_second", rate, batch_size=len(batch["image"]))
