"""Training and validation of a segmenter with one network, by Lightning's hooks."""

import logging
import math
from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from diffmedseg.data.batch import Batch
from diffmedseg.data.labels.supervision import after
from diffmedseg.metrics import Dice
from diffmedseg.models.drawing import NetworkSegmenter
from diffmedseg.models.optimisation import SharedFactory, scaled, split_encoder, warmup_cosine
from diffmedseg.models.stacks import join_batch
from diffmedseg.models.targets import sure_part
from diffmedseg.models.validation import ValidationScore

_log = logging.getLogger(__name__)

#: Remedy for a model that finds nothing; the second part is for losses with a Dice term per image.
_EMPTY_REMEDY = "In the first steps this is usual. If it stays, train longer"
_DICE_REMEDY = ", or take the Dice loss over batches by --model.dice_over=batch"


class TrainedSegmenter(NetworkSegmenter, ABC):
    """A segmenter whose network learns by gradient descent.

    A subclass computes the training loss. Its attributes are the arguments of
    :class:`~diffmedseg.models.DiffusionSegmenter`.
    """

    optimizer: SharedFactory
    warmup_steps: int
    cosine_decay: bool
    encoder_lr: float
    val_num_samples: int
    val_num_steps: int
    val_dice: Dice
    val_score: ValidationScore

    @abstractmethod
    def training_loss(self, batch: Batch) -> Tensor:
        """Compute the training loss of a batch, a scalar; ``batch["draw"]`` keys its randomness."""

    @property
    def rewards_empty_masks(self) -> bool:
        """Whether the loss has a Dice term per image, which rewards an empty answer to an empty mask."""
        return False

    # Training.

    def setup(self, stage: str) -> None:
        """Have the data module select the training targets and regions of this model."""
        initial = self._initial_supervision()
        data = getattr(self.trainer, "datamodule", None)
        configure_targets = getattr(data, "configure_targets", None)  # other data modules already fit their model
        if configure_targets is not None:
            learned_from = configure_targets(self.needs if stage == "fit" else (), self.regions)
            self.learned_from = learned_from or self.learned_from
        elif stage == "fit":
            self.learned_from = "masks" if "mask" in self.needs else "image-level labels"
        if stage == "fit" and initial is not None:
            self.learned_from = after(initial, self.learned_from)

    def _initial_supervision(self) -> str | None:
        """Return the supervision of the present weights; None for new weights."""
        if self.initialisation is not None and "learned_from" in self.initialisation:  # not in older checkpoints
            return str(self.initialisation["learned_from"])
        return vars(self).get("learned_from")  # an attribute of the class alone is that of new weights

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log and return the training loss."""
        self._fit_to_grid(batch)
        self.tiling.remember((int(batch["image"].shape[-2]), int(batch["image"].shape[-1])))
        batch = join_batch(batch, self.depth) if self.depth else batch
        batch["image"] = self._memory_format(batch["image"])
        loss = self.training_loss(batch)
        self.log_training("train/loss", loss, batch, prog_bar=True)
        return loss

    def log_training(self, name: str, value: Tensor, batch: Batch, prog_bar: bool = False) -> None:
        """Log the mean over all processes of a scalar of a training step; log nothing without a Trainer.

        Taking the mean makes processes wait for each other. Between the logged steps, the progress bar therefore shows
        the value of the first process.
        """
        trainer, value = self._trainer, value.detach()
        if trainer is None:
            return
        step = self.global_step + 1
        if trainer.world_size > 1 and (step % trainer.log_every_n_steps == 0 or step == trainer.max_steps):  # type: ignore[attr-defined]  # set by Lightning, not declared
            value = trainer.strategy.reduce(value.clone(), reduce_op="mean")
        self.log(name, value, prog_bar=prog_bar, batch_size=len(batch["image"]))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401
        """Ask to stop at the last step: Lightning then validates once more, even if the epoch is not over."""
        if 0 < self.trainer.max_steps <= self.trainer.global_step:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser and its schedule: a linear warm-up, then a cosine decay if ``cosine_decay`` is set.

        The learning rate of the encoder is ``encoder_lr`` times the learning rate of all other layers.
        """
        steps = self.trainer.estimated_stepping_batches if self.cosine_decay else math.inf
        factor = warmup_cosine(self.warmup_steps, steps)
        if self.encoder_lr == 1:
            optimizer = self.optimizer(self.parameters())
            schedule = LambdaLR(optimizer, factor)
        else:
            optimizer = self.optimizer(split_encoder(self.parameters(), self.denoiser.encoder_parameters()))
            schedule = LambdaLR(optimizer, [factor, scaled(factor, self.encoder_lr)])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "train/learning_rate"},
        }

    # Validation.

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Segment with few samples and steps, and log ``val/dice``: the mean Dice of cases on the model's grid.

        At the end of the epoch, ``val/score`` is logged; see :class:`~diffmedseg.models.validation.ValidationScore`.
        """
        counts = self.val_num_samples, self.val_num_steps
        sample_set, grid, _, size, keys = self._sample(batch["image"], *counts, None, self.noise_keys(batch), "none")
        segmentation = self.fuse(sample_set, size, grid, keys)
        sure_segmentation, sure_batch = sure_part(segmentation, batch)
        self.val_dice.update(sure_segmentation.mask, sure_batch["mask"].bool(), batch["case"])
        self.log("val/dice", self.val_dice, on_epoch=True, prog_bar=True, batch_size=len(batch["image"]))
        self.val_score.update(sure_segmentation, sure_batch)
        return {"segmentation": segmentation}

    def on_validation_epoch_start(self) -> None:
        """Reset the count of images and the score."""
        super().on_validation_epoch_start()
        self.val_score.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the score that selects checkpoints, and warn if the model finds nothing."""
        self.log("val/score", self.val_score.compute())
        problems = self.val_score.find_empty_answers()
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            for problem in problems:
                remedy = _EMPTY_REMEDY + (_DICE_REMEDY if self.rewards_empty_masks else "")
                _log.warning("Step %d: %s %s.", self.global_step, problem, remedy)
