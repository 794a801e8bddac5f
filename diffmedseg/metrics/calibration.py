"""Whether a probability of 0.7 is right 70 % of the time; and whether doubt finds the errors."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffmedseg.precision import with_float64

#: Bins of equal width in which pixels are counted; counts add up over images, and are merged to bins of equal mass.
FINE_BINS = 1000


def fine_bins(probability: Tensor) -> Tensor:
    """Return the bin, int64 in [0, FINE_BINS), of each probability in [0, 1]."""
    bins = (with_float64(probability).double() * FINE_BINS).long().clamp(0, FINE_BINS - 1)
    return bins.to(probability.device)


def reliability_counts(probability: Tensor, target: Tensor) -> Tensor:
    """Count pixels by their probability; counts of several images, slices or processes add up.

    Args:
        probability: (...), in [0, 1].
        target: (...), in [0, 1]: the truth, or the share of raters that call the pixel foreground.

    Returns:
        (3, FINE_BINS), float64, on the CPU: pixels, sum of their probability, sum of their target.
    """
    p, y = with_float64(probability).flatten().double(), with_float64(target).flatten().double()
    bins = fine_bins(p)
    ones = torch.ones_like(p)
    return torch.stack([torch.bincount(bins, values, FINE_BINS) for values in (ones, p, y)]).cpu()


def merge_bins(counts: Tensor, bins: int = 15) -> Tensor:
    """Merge fine bins to bins of about equal mass; empty ones are dropped.

    The lowest and the highest fine bin stay bins of their own: most of an image is certain background, and would leave
    one bin for all that is doubtful, in which errors of both signs cancel.

    Args:
        counts: (3, FINE_BINS), of :func:`reliability_counts`.
        bins: Number of bins wanted.

    Returns:
        (3, n), n at most ``bins`` + 2: pixels, sum of their probability, sum of their target.
    """
    merged = _merged(counts, bins)
    return merged[:, merged[0] > 0]


def _merged(counts: Tensor, bins: int) -> Tensor:
    """Merge fine bins (..., 3, FINE_BINS) to (..., 3, bins + 2), of which some may be empty."""
    doubtful = counts[..., 1:-1]
    mass = doubtful[..., :1, :] / doubtful[..., :1, :].sum(-1, keepdim=True).clamp(min=1)
    middle = mass.cumsum(-1) - mass / 2
    index = (middle * bins).long().clamp(0, bins - 1).expand_as(doubtful)
    merged = counts.new_zeros(*counts.shape[:-1], bins).scatter_add_(-1, index, doubtful)
    return torch.cat([counts[..., :1], merged, counts[..., -1:]], -1)


def expected_calibration_error(counts: Tensor, bins: int = 15) -> float:
    """Mean over pixels of |probability - frequency| in bins, here of equal mass (Naeini et al., AAAI 2015).

    Args:
        counts: (3, FINE_BINS), of :func:`reliability_counts`.
        bins: Number of bins.

    Returns:
        In [0, 1], NaN where nothing was counted. Lower is better.
    """
    return float(_calibration_errors(counts, bins))


def _calibration_errors(counts: Tensor, bins: int = 15) -> Tensor:
    """Return the errors (...) of counts (..., 3, FINE_BINS); NaN where nothing was counted."""
    pixels, probability, target = _merged(counts, bins).unbind(-2)
    return (probability - target).abs().sum(-1) / pixels.sum(-1)


def calibration_error_interval(
    counts: Sequence[Tensor], confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`expected_calibration_error` over patients.

    Args:
        counts: (3, FINE_BINS) of each patient, of :func:`reliability_counts`.
        confidence: Coverage wanted.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Lower and upper end; NaN for both where there are fewer than two patients.
    """
    if len(counts) < 2:
        return float("nan"), float("nan")
    patients = len(counts)
    times = np.random.default_rng(seed).multinomial(patients, [1 / patients] * patients, draws)
    drawn = (torch.from_numpy(times).double() @ torch.stack(list(counts)).flatten(1)).view(draws, 3, -1)
    low, high = np.quantile(_calibration_errors(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def proper_scores(probability: Tensor, target: Tensor, least: float = 1e-6) -> Tensor:
    """Sums whose means are the Brier score and the negative log-likelihood; they add up over images.

    Args:
        probability: (..., H, W), in [0, 1].
        target: (..., H, W), in [0, 1]: the share of raters. The scores are the mean of those against each rater.
        least: Probabilities are kept so far from 0 and 1: one certain error would outweigh everything.

    Returns:
        (3, ...), float64: pixels, sum of squared errors, sum of -log p in nats.
    """
    p, y = with_float64(probability).double(), with_float64(target).double()
    squared = p.square() - 2 * p * y + y  # the mean of (p - r)^2 over raters r in {0, 1} whose mean is y
    q = p.clamp(least, 1 - least)
    surprise = -(y * q.log() + (1 - y) * (1 - q).log())
    return torch.stack([torch.ones_like(p).sum((-2, -1)), squared.sum((-2, -1)), surprise.sum((-2, -1))])


def neighbourhood(reference: Tensor, margin: float = 0.5) -> Tensor:
    """Mark where calibration is hard: the bounding box of a lesion, enlarged. Certain background hides all else.

    Args:
        reference: (H, W), bool.
        margin: By how much of its height and width the box grows on each side.

    Returns:
        (H, W), bool; empty where there is no lesion.
    """
    box = torch.zeros_like(reference)
    if reference.any():
        spans = []
        for axis, size in enumerate(reference.shape):
            where = reference.any(1 - axis).nonzero()[:, 0]
            low, high = int(where[0]), int(where[-1]) + 1
            more = max(round((high - low) * margin), 1)
            spans.append(slice(max(low - more, 0), min(high + more, size)))
        box[tuple(spans)] = True
    return box


def risk_coverage(doubt: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Risk of the cases that are kept, when the most doubtful are sent to a human first (Geifman & El-Yaniv 2017).

    Args:
        doubt: (N,): how doubtful each case is; ties are kept or sent together, at their mean risk.
        score: (N,): its quality in [0, 1], such as Dice.

    Returns:
        Coverage (N,), from 1 / N to 1, and the mean of 1 - score over the cases kept at each.
    """
    doubts, risk = np.asarray(doubt, dtype=float), 1 - np.asarray(score, dtype=float)
    order = np.argsort(doubts, kind="stable")
    values, first, sizes = np.unique(doubts[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(risk[order], first) if len(values) else np.zeros(0)
    sorted_risk = np.repeat(sums / sizes, sizes)
    count = np.arange(1, len(risk) + 1)
    return count / max(len(risk), 1), np.cumsum(sorted_risk) / count


def aurc(doubt: ArrayLike, score: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages. Lower is better; NaN of no case."""
    _, risk = risk_coverage(doubt, score)
    return float(risk.mean()) if len(risk) else float("nan")
