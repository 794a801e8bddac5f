"""The progress bar of training."""

import math

from lightning.pytorch.callbacks import RichProgressBar


class EpochProgressBar(RichProgressBar):
    """A progress bar that counts epochs from 1, and shows their number if ``max_steps`` ends the training."""

    def _get_train_description(self, current_epoch: int) -> str:
        steps, batches = self.trainer.max_steps, self.total_train_batches
        if steps > 0 and math.isfinite(batches) and batches:
            updates = math.ceil(batches / self.trainer.accumulate_grad_batches)
            return f"Epoch {current_epoch + 1}/{math.ceil(steps / updates)}"
        return f"Epoch {current_epoch + 1}"
