"""Match a set of samples with a set of raters."""

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def hungarian_iou(distances: Tensor) -> float:
    """Compute the mean IoU of the best matching of samples and raters, each repeated to their least common multiple.

    This compares distributions: all samples and all raters have equal weight (Kohl et al. 2019, arXiv 1905.13077).
    Some code assigns the rectangular matrix, which picks the best samples instead: see :func:`rectangular_iou`.

    Args:
        distances: (S, R): 1 - IoU.

    Returns:
        In [0, 1]. Higher is better.
    """
    samples, raters = distances.shape
    size = math.lcm(samples, raters)
    cost: NDArray[np.float64] = distances.cpu().double().numpy()
    return _matched_iou(cost.repeat(size // samples, 0).repeat(size // raters, 1))


def rectangular_iou(distances: Tensor) -> float:
    """Compute the mean IoU of the best one-to-one matching of raters and samples; the rest stays unmatched.

    Some code prints it as Hungarian IoU. It grows with the number of samples, since an oracle picks the best samples.

    Args:
        distances: (S, R): 1 - IoU.

    Returns:
        In [0, 1]: the mean over the min(S, R) pairs. Higher is better.
    """
    return _matched_iou(distances.cpu().double().numpy())


def _matched_iou(cost: "NDArray[np.float64]") -> float:
    from scipy.optimize import linear_sum_assignment

    return float(1 - cost[linear_sum_assignment(cost)].mean())


def best_of_n_iou(distances: Tensor) -> float:
    """Compute the mean over raters of the IoU with the best sample: an oracle's choice, which grows with S.

    Args:
        distances: (S, R): 1 - IoU.
    """
    return float((1 - distances).max(0).values.mean())
