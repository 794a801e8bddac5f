"""The masks that a training step learns from, where images have several raters, empty masks or unsure pixels."""

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.diffusion.loss import weigh_pixels
from diffmedseg.errors import unknown
from diffmedseg.segmentation import Segmentation

#: Whose masks of an image a training step learns from: one rater's, drawn anew each time, or those of all.
Raters = Literal["one", "all"]


@dataclass(frozen=True)
class Targets:
    """The masks of R raters of each of B images.

    Attributes:
        mask: (B * R, K, H, W), in {0, 1}, image-major; 0.5 in pixels that are unsure.
        weight: (B * R, K), at least 0: how much each mask counts; None where all count alike.
        present: (B, K), in [0, 1]: the share of the raters who outline anything in each region: of all raters of the
            batch, even where masks are those of one. Unsure pixels do not count.
        pixels: (B * R, 1, H, W), in {0, 1}: the pixels that losses look at; None for all. No value of a mask elsewhere
            changes any loss.
        known: (B, K), in {0, 1}: whether ``present`` is known, which unsure pixels may leave open; None where it always
            is.
    """

    mask: Tensor
    weight: Tensor | None
    present: Tensor
    pixels: Tensor | None = None
    known: Tensor | None = None


def masks_needed(raters: Raters, energy_weight: float, energy_samples: int) -> tuple[str, ...]:
    """Return the masks that training batches have to hold.

    Args:
        raters: Whose masks a step learns from.
        energy_weight: Weight of the energy term, which takes the masks of all raters.
        energy_samples: Its samples of each image.

    Raises:
        ValueError: If one of these cannot be.
    """
    if raters not in get_args(Raters):
        raise ValueError(unknown("choice of raters", raters, list(get_args(Raters))))
    if energy_weight < 0:
        raise ValueError(f"energy_weight is {energy_weight}; it has to be at least 0, which leaves the term out.")
    if energy_samples < 2:
        raise ValueError(f"energy_samples is {energy_samples}; the energy term compares samples: give at least 2.")
    return ("mask", "raters") if raters == "all" or energy_weight else ("mask",)


def training_targets(batch: Batch, raters: Raters, skip_empty: bool) -> Targets:
    """Return what a batch teaches.

    Args:
        batch: With ``mask``; with ``raters`` and ``rater_valid`` where all are asked for.
        raters: Whose masks. Of all raters, each image counts alike, however many it has.
        skip_empty: Whether empty masks have no weight.
    """
    pixels, dims = sure_pixels(batch), batch["image"].ndim - 2
    own = _filled(weigh_pixels(batch["mask"], pixels), dims)
    weight = own if skip_empty else None
    if raters == "one" and "raters" not in batch:
        return _with_unsure(Targets(batch["mask"], weight, own), pixels)
    mask, valid = batch["raters"], batch["rater_valid"].float()[..., None]
    filled = _filled(hide_unsure(mask, batch), dims)
    share = valid / valid.sum(1, keepdim=True)
    present = (share * filled).sum(1)
    if raters == "one":
        return _with_unsure(Targets(batch["mask"], weight, present), pixels)
    weight = share * mask.shape[1] * (filled if skip_empty else torch.ones_like(filled))
    return _with_unsure(Targets(mask.flatten(0, 1), weight.flatten(0, 1), present), pixels)


def sure_pixels(batch: Batch) -> Tensor | None:
    """Return the pixels that losses look at, (B, 1, H, W) in {0, 1}, float; None for all."""
    return 1 - batch["unsure"].float() if "unsure" in batch else None


def hide_unsure(masks: Tensor, batch: Batch) -> Tensor:
    """Return masks or samples of a batch, (B, N, K, H, W), with 0 in pixels that are unsure."""
    pixels = sure_pixels(batch)
    return masks if pixels is None else masks * pixels[:, None]


def sure_part(segmentation: Segmentation, batch: Batch) -> tuple[Segmentation, Batch]:
    """Return a segmentation and the batch with empty masks in pixels that are unsure, so that no score counts them."""
    pixels = sure_pixels(batch)
    if pixels is None:
        return segmentation, batch

    def hide(masks: Tensor) -> Tensor:
        sure = F.interpolate(pixels, masks.shape[-2:], mode="nearest-exact")
        return masks * sure.reshape(len(sure), *[1] * (masks.ndim - 3), *sure.shape[-2:]).to(masks.dtype)

    prior = None if segmentation.prior is None else hide(segmentation.prior)
    hidden = {name: hide(batch[name]) for name in ("mask", "raters")}
    found = replace(segmentation, samples=hide(segmentation.samples), mask=hide(segmentation.mask), prior=prior)
    return found, cast(Batch, dict(batch) | hidden)


def _with_unsure(targets: Targets, pixels: Tensor | None) -> Targets:
    """Hide the masks in pixels that are unsure; whether they are empty is then known only of some."""
    if pixels is None:
        return targets
    all_sure = (pixels > 0).flatten(1).all(1)[:, None]
    known = ((targets.present > 0) | all_sure).to(targets.present)
    pixels = pixels.repeat_interleave(len(targets.mask) // len(pixels), 0)
    mask = torch.where(pixels > 0, targets.mask, 0.5)
    return replace(targets, mask=mask, pixels=pixels, known=known)


def _filled(mask: Tensor, dims: int) -> Tensor:
    """Return whether masks have any foreground in their last dimensions, float."""
    return mask.flatten(-dims).any(-1).float()
