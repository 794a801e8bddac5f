"""Batches of anybody's data module, checked and completed before a step sees them."""

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

_DRAW_BITS = 20  # images in a step of all processes, at most
_BATCHES_BETWEEN_LOOKS = 50
_NOTHING = torch.empty(0)

_log = logging.getLogger(__name__)


class BatchedModule(LightningModule):
    """A module that takes batches of which only image and mask are there; see :class:`~diffmedseg.data.batch.Batch`.

    Callbacks are given the same object in these hooks, where a step may be given a copy.
    """

    #: What training batches have to hold.
    needs: tuple[str, ...] = ("mask",)
    denoiser: Denoiser
    image_size: tuple[int, int]
    channels: tuple[str, ...]
    slice_input: SliceInput | None = None
    regions: tuple[str, ...]
    _images_before = 0
    _said_size = False
    _named = True

    @property
    def image_channels(self) -> tuple[str, ...]:
        """Names of all channels of an image, those of neighbouring slices included."""
        return self.channels if self.slice_input is None else self.slice_input.image_channels(self.channels)

    #: How noise is alike in the slices of a volume; see :class:`~diffmedseg.models.DiffusionSegmenter`.
    slice_correlation: float | None = None

    @property
    def depth(self) -> int:
        """Number of slices that a network of volumes sees at once; 0 where it sees single images."""
        return 0 if self.slice_input is None else self.slice_input.depth

    def noise_keys(self, batch: Batch) -> list[str] | None:
        """Return the keys of the noise: the cases, or None for the content of images that came without names.

        Raises:
            ValueError: If noise is to be correlated over slices, and the batch does not say how far they lie apart.
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
                    f"slice_correlation is {self.slice_correlation:g} mm, and slice {number} of {case} comes without "
                    "the distance of slices. Give spacing (slices, rows, columns) in mm, or set it to null."
                )
            keys.append(case)
        return keys

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Check a batch, and complete it."""
        # On a GPU to look at values waits for it: now and then is enough to find a data module's fault.
        look = batch_idx % _BATCHES_BETWEEN_LOOKS == 0 or batch.get("image", _NOTHING).device.type == "cpu"
        check_batch(batch, ("image", *self.needs), len(self.image_channels), self.denoiser.mask_channels, look)
        trainer, size = self.trainer, len(batch["image"])
        batches = trainer.global_step * trainer.accumulate_grad_batches + batch_idx % trainer.accumulate_grad_batches
        complete_draws(batch, batches << _DRAW_BITS, [self.global_rank * size + i for i in range(size)])

    def on_validation_epoch_start(self) -> None:
        """Count images anew."""
        self._images_before = 0

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check a batch, and complete it."""
        self._complete(batch, ("image", "mask"), batch_idx)

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check a batch, and complete it."""
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
        """Bring training images in [-1, 1] and their masks to the model's grid, as :meth:`segment` brings images.

        Our data modules deal what belongs on the grid, and so do others that have a ``patch``: the size of the parts of
        images that they deal.
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
        if not self._said_size:
            self._said_size = True
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
