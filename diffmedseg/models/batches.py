"""Batches of any data module, checked and completed before a step takes them."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor

from diffmedseg.data.batch import Batch, check_batch, check_binary, complete_batch, complete_draws, complete_reference
from diffmedseg.data.store import to_signed
from diffmedseg.keyed_random import slice_keys
from diffmedseg.models.denoiser import Denoiser
from diffmedseg.reading.slice_input import SliceInput

_DRAW_BITS = 20  # log2 of the maximum number of images in a step of all processes
_BATCHES_BETWEEN_CHECKS = 50
_NOTHING = torch.empty(0)

_log = logging.getLogger(__name__)


class BatchedModule(LightningModule):
    """A module that takes batches with only image and mask; see :class:`~diffmedseg.data.batch.Batch`.

    The hooks complete the batch in place: callbacks get the same object, while a step may get a copy.
    """

    #: Required entries of training batches, besides the image.
    needs: tuple[str, ...] = ("mask",)
    denoiser: Denoiser
    image_size: tuple[int, int]
    channels: tuple[str, ...]
    slice_input: SliceInput | None = None
    regions: tuple[str, ...]
    _images_before = 0
    _warned_of_size = False
    _named = True

    @property
    def image_channels(self) -> tuple[str, ...]:
        """Names of all channels of an image, including the channels of neighbouring slices."""
        return self.channels if self.slice_input is None else self.slice_input.image_channels(self.channels)

    #: Correlation length of the noise over slices, in mm; see :class:`~diffmedseg.models.DiffusionSegmenter`.
    slice_correlation: float | None = None

    @property
    def depth(self) -> int:
        """Number of slices in a training volume; 0 for networks of images."""
        return 0 if self.slice_input is None else self.slice_input.depth

    def noise_keys(self, batch: Batch) -> list[str] | None:
        """Return the keys of the noise: the cases, or None (keys from the content) for images without names.

        Raises:
            ValueError: If noise is correlated over slices, and the batch lacks the distance of slices.
        """
        if not self._named or self.slice_correlation is None:
            return batch["case"] if self._named else None
        keys = []
        for case, number, spacing in zip(batch["case"], batch["index"], batch["spacing"], strict=True):
            if spacing is not None and len(spacing) == 3:
                keys += slice_keys(case, [number], spacing[0], self.slice_correlation)
                continue
            if number:
                raise ValueError(
                    f"slice_correlation is {self.slice_correlation:g} mm; slice {number} of {case} has no distance of "
                    "slices. Give spacing (slices, rows, columns) in mm, or set slice_correlation to null."
                )
            keys.append(case)
        return keys

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Check and complete a batch."""
        # Reading values waits for the GPU; checking some batches is enough to find faults of a data module.
        check_values = batch_idx % _BATCHES_BETWEEN_CHECKS == 0 or batch.get("image", _NOTHING).device.type == "cpu"
        check_batch(batch, ("image", *self.needs), len(self.image_channels), self.denoiser.mask_channels, check_values)
        trainer, size = self.trainer, len(batch["image"])
        batches = trainer.global_step * trainer.accumulate_grad_batches + batch_idx % trainer.accumulate_grad_batches
        complete_draws(batch, batches << _DRAW_BITS, [self.global_rank * size + i for i in range(size)])

    def on_validation_epoch_start(self) -> None:
        """Reset the count of images."""
        self._images_before = 0

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check and complete a batch."""
        self._complete(batch, ("image", "mask"), batch_idx)

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check and complete a batch."""
        self._complete(batch, ("image",) if "reference" in batch else ("image", "mask"), batch_idx)
        complete_reference(batch)

    def _complete(self, batch: Batch, needs: Sequence[str], batch_idx: int) -> None:
        check_batch(batch, needs, len(self.image_channels), len(self.regions), True)
        check_binary(batch)
        self._named = "case" in batch or "id" in batch
        first, ranks = self._images_before, self.trainer.world_size
        complete_batch(batch, [(first + i) * ranks + self.global_rank for i in range(len(batch["image"]))])
        self._images_before += len(batch["image"])

    def _fit_to_grid(self, batch: Batch) -> None:
        """Map training images to [-1, 1], and resize images and masks to the model's grid, as :meth:`segment` does.

        Images of the project's data modules, and of data modules with a ``patch`` (the size of cropped images), are
        already on the grid.
        """
        batch["image"] = to_signed(batch["image"])
        masks: tuple[Literal["mask", "raters", "unsure"], ...] = ("mask", "raters", "unsure")
        present = [name for name in masks if name in batch]
        for name in present:
            batch[name] = batch[name].float()
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        size = (int(batch["image"].shape[-2]), int(batch["image"].shape[-1]))
        fits = size == self.image_size or hasattr(data, "configure_targets") or getattr(data, "patch", None)
        if self._trainer is None or fits:
            return
        if not self._warned_of_size:
            self._warned_of_size = True
            _log.warning(
                "Training images of %d x %d are resized to the model's grid, %d x %d: image_size sets the grid.",
                *size, *self.image_size,
            )  # fmt: skip
        batch["image"] = to_grid(batch["image"], self.image_size)
        if "healthy" in batch:
            batch["healthy"] = to_grid(to_signed(batch["healthy"]), self.image_size)
        for name in present:
            resized = F.interpolate(batch[name].flatten(0, -4), self.image_size, mode="nearest-exact")
            batch[name] = resized.reshape(*batch[name].shape[:-2], *self.image_size)


def to_grid(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, C, H, W) in [-1, 1] to a model's grid."""
    return F.interpolate(image, size, mode="bilinear", antialias=True).clamp(-1, 1)
