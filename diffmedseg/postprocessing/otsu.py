"""Otsu's threshold."""

import torch
from torch import Tensor

from diffmedseg.precision import with_float64

_BINS = 256


def otsu_level(values: Tensor) -> Tensor:
    """Find the level with the largest variance between the two classes (Otsu 1979, IEEE SMC 9:62).

    Args:
        values: (N, ...), in [0, 1]; rows are independent.

    Returns:
        (N,), in [0, 1]: the mean of the best levels, if there are several.
    """
    index = with_float64((values.flatten(1) * _BINS).long().clamp(0, _BINS - 1))
    count = torch.zeros(len(values), _BINS, dtype=torch.float64, device=index.device)
    count = count.scatter_add(1, index, torch.ones_like(index, dtype=torch.float64))
    middle = (torch.arange(_BINS, device=index.device, dtype=torch.float64) + 0.5) / _BINS
    below, moment = count.cumsum(1), (count * middle).cumsum(1)
    between = (moment[:, -1:] * below - moment * below[:, -1:]).square()
    between = between / (below * (below[:, -1:] - below)).clamp(min=1)
    best = (between >= between.amax(1, keepdim=True) * (1 - 1e-12)).double()
    level = (best * (middle + 0.5 / _BINS)).sum(1) / best.sum(1)
    return level.to(values.dtype).to(values.device)
