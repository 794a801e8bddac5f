"""Exponential moving average of the weights."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WarmupEMA(WeightAveraging):
    """Averages the parameters with decay min(decay, (1 + n) / (10 + n)) after n updates; buffers are copied.

    With a constant decay, the average of a short run stays close to the initial weights. Averaged buffers would corrupt
    a noise schedule or the statistics of a normalisation. Validation, test and the ``state_dict`` of checkpoints use
    the average; ``current_model_state`` has the raw weights. The warm-up is that of TensorFlow's
    ``ExponentialMovingAverage``.

    Args:
        decay: Decay after the warm-up; 0.999 averages over about 1,000 steps.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it has to lie in [0, 1).")
        self.decay = decay
        super().__init__(use_buffers=False)
        self._swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the average on the device of training. The model is not there yet."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def decay_after(self, updates: int) -> float:
        """Return the decay of the next update. The first update copies the weights."""
        return min(self.decay, (1 + updates) / (10 + updates)) if updates else 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Update the average after an optimiser step, without waiting for the device."""
        if self._average_model is None or trainer.global_step <= self._latest_update_step:
            return
        average, model = self._average_model.module, pl_module
        update = get_ema_multi_avg_fn(self.decay_after(self._latest_update_step))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            update(list(average.parameters()), list(model.parameters()), None)
            for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
                copied.copy_(buffer)
        self._latest_update_step = trainer.global_step

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save average and raw weights under their keys, even if a validation has swapped them."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped and self._average_model is not None:
            raw, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint |= {"state_dict": average, "current_model_state": raw}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the raw weights back after an interrupted validation, before a checkpoint is written."""
        if self._swapped:
            self._swap_models(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore average and raw weights when training resumes. A test uses only the average."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop the average after training: the model has its weights now, and a test must not load raw weights."""
        if stage == "fit":
            self._average_model = None
