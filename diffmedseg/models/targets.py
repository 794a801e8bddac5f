"""The masks that a training step learns from, where images have several raters or empty masks."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffmedseg.data.batch import Batch

#: Whose masks of an image a training step learns from: one rater's, drawn anew each time, or those of all.
Raters = Literal["one", "all"]


@dataclass(frozen=True)
class Targets:
    """The masks of R raters of each of B images.

    Attributes:
        mask: (B * R, K, H, W), in {0, 1}, image-major.
        weight: (B * R, K), at least 0: how much each mask counts; None where all count alike.
        present: (B, K), in [0, 1]: the share of the raters who outline anything in each region.
    """

    mask: Tensor
    weight: Tensor | None
    present: Tensor


def training_targets(batch: Batch, raters: Raters, skip_empty: bool) -> Targets:
    """Return what a batch teaches.

    Args:
        batch: With ``mask``; with ``raters`` and ``rater_valid`` where all are asked for.
        raters: Whose masks. Of all raters, each image counts alike, however many it has.
        skip_empty: Whether empty masks have no weight.
    """
    mask = batch["raters"] if raters == "all" else batch["mask"][:, None]
    filled = mask.flatten(3).any(3).float()
    if raters == "one":
        return Targets(mask.flatten(0, 1), filled.flatten(0, 1) if skip_empty else None, filled[:, 0])
    valid = batch["rater_valid"].float()[..., None]
    share = valid / valid.sum(1, keepdim=True)
    weight = share * mask.shape[1] * (filled if skip_empty else filled.new_ones(filled.shape))
    return Targets(mask.flatten(0, 1), weight.flatten(0, 1), (share * filled).sum(1))
