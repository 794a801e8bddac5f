"""Do the borders of MedSegDiff-Lite's patches show in masks?"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from diffmedseg.models import MedSegDiffLite


def jumps(maps: Tensor, patch: int = MedSegDiffLite.patch) -> tuple[float, float]:
    """Return the mean absolute difference of neighbouring pixels, across borders of patches and within patches.

    If patches do not show, the ratio of their means over many images is 1, because an outline crosses borders as often
    as other places.

    Args:
        maps: (..., H, W), on the grid of the network.
        patch: Side of a patch, in pixels.
    """
    across, within = [], []
    for dim in (-1, -2):
        steps = maps.double().diff(dim=dim).abs().movedim(dim, 0)
        border = (torch.arange(len(steps), device=maps.device) + 1) % patch == 0
        across.append(steps[border].flatten())
        within.append(steps[~border].flatten())
    return float(torch.cat(across).mean()), float(torch.cat(within).mean())


def ratios(pairs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return a number for each pair (a, b). The mean of the numbers is the sum of all a over the sum of all b.

    The ratio of a single image depends on the position of its outline. So each number is the ratio of all images plus
    the influence of the image on it. Intervals of the mean of these numbers are then intervals of the ratio.
    """
    a, b = np.array(list(pairs.values())).T
    ratio = a.sum() / b.sum()
    return dict(zip(pairs, (ratio + (a - ratio * b) / b.mean()).tolist(), strict=True))
