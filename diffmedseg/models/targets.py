"""Target masks of a training step, for images with several raters, empty masks or unsure pixels."""

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.diffusion.loss import weigh_pixels
from diffmedseg.errors import unknown
from diffmedseg.segmentation import Segmentation

#: Target masks of an image: the mask of one rater, who is drawn anew each time, or the masks of all raters.
Raters = Literal["one", "all"]


@dataclass(frozen=True)
class Targets:
    """The masks of R raters of each of B images.

    Attributes:
        mask: (B * R, K, H, W), in {0, 1}, image-major; 0.5 in pixels that are unsure.
        weight: (B * R, K), at least 0: weight of each mask; None for equal weights.
        present: (B, K), in [0, 1]: share of the raters who outline each region, over all raters of the batch even if
            ``mask`` has one rater. Unsure pixels do not count.
        pixels: (B * R, 1, H, W), in {0, 1}: the pixels that count in losses; None for all pixels. Values of masks
            elsewhere change no loss.
        known: (B, K), in {0, 1}: whether ``present`` is known; unsure pixels may leave it open. None if it is always
            known.
    """

    mask: Tensor
    weight: Tensor | None
    present: Tensor
    pixels: Tensor | None = None
    known: Tensor | None = None


def masks_needed(raters: Raters, energy_weight: float, energy_samples: int) -> tuple[str, ...]:
    """Return the required masks of training batches.

    Args:
        raters: The raters of the target masks.
        energy_weight: Weight of the energy term, which takes the masks of all raters.
        energy_samples: Samples of each image in the energy term.

    Raises:
        ValueError: If an argument is invalid.
    """
    if raters not in get_args(Raters):
        raise ValueError(unknown("choice of raters", raters, list(get_args(Raters))))
    if energy_weight < 0:
        raise ValueError(f"energy_weight is {energy_weight}; it has to be at least 0. 0 leaves the term out.")
    if energy_samples < 2:
        raise ValueError(f"energy_samples is {energy_samples}; the energy term compares samples: give at least 2.")
    return ("mask", "raters") if raters == "all" or energy_weight else ("mask",)


def training_targets(batch: Batch, raters: Raters, skip_empty: bool) -> Targets:
    """Return the targets of a batch.

    Args:
        batch: With ``mask``, and with ``raters`` and ``rater_valid`` for the masks of all raters.
        raters: The raters of the target masks. With all raters, images have equal weight whatever their number of
            raters.
        skip_empty: Whether empty masks have weight 0.
    """
    pixels, dims = sure_pixels(batch), batch["image"].ndim - 2
    mask_filled = _filled(weigh_pixels(batch["mask"], pixels), dims)
    weight = mask_filled if skip_empty else None
    if raters == "one" and "raters" not in batch:
        return _with_unsure(Targets(batch["mask"], weight, mask_filled), pixels)
    mask, valid = batch["raters"], batch["rater_valid"].float()[..., None]
    filled = _filled(hide_unsure(mask, batch), dims)
    share = valid / valid.sum(1, keepdim=True)
    present = (share * filled).sum(1)
    if raters == "one":
        return _with_unsure(Targets(batch["mask"], weight, present), pixels)
    weight = share * mask.shape[1] * (filled if skip_empty else torch.ones_like(filled))
    return _with_unsure(Targets(mask.flatten(0, 1), weight.flatten(0, 1), present), pixels)


def sure_pixels(batch: Batch) -> Tensor | None:
    """Return the pixels that count in losses, (B, 1, H, W) in {0, 1}, float; None for all pixels."""
    return 1 - batch["unsure"].float() if "unsure" in batch else None


def hide_unsure(masks: Tensor, batch: Batch) -> Tensor:
    """Return masks or samples of a batch, (B, N, K, H, W), with 0 in unsure pixels."""
    pixels = sure_pixels(batch)
    return masks if pixels is None else masks * pixels[:, None]


def sure_part(segmentation: Segmentation, batch: Batch) -> tuple[Segmentation, Batch]:
    """Return a segmentation and its batch with 0 in unsure pixels, so that scores ignore these pixels."""
    pixels = sure_pixels(batch)
    if pixels is None:
        return segmentation, batch

    def hide(masks: Tensor) -> Tensor:
        sure = F.interpolate(pixels, masks.shape[-2:], mode="nearest-exact")
        return masks * sure.reshape(len(sure), *[1] * (masks.ndim - 3), *sure.shape[-2:]).to(masks.dtype)

    prior = None if segmentation.prior is None else hide(segmentation.prior)
    hidden = {name: hide(batch[name]) for name in ("mask", "raters")}
    sure = replace(segmentation, samples=hide(segmentation.samples), mask=hide(segmentation.mask), prior=prior)
    return sure, cast(Batch, dict(batch) | hidden)


def _with_unsure(targets: Targets, pixels: Tensor | None) -> Targets:
    """Hide unsure pixels of the masks; it is then unknown whether some of the masks are empty."""
    if pixels is None:
        return targets
    all_sure = (pixels > 0).flatten(1).all(1)[:, None]
    known = ((targets.present > 0) | all_sure).to(targets.present)
    pixels = pixels.repeat_interleave(len(targets.mask) // len(pixels), 0)
    mask = torch.where(pixels > 0, targets.mask, 0.5)
    return replace(targets, mask=mask, pixels=pixels, known=known)


def _filled(mask: Tensor, dims: int) -> Tensor:
    """Return whether masks have foreground in their last ``dims`` dimensions, float."""
    return mask.flatten(-dims).any(-1).float()
