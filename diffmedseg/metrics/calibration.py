"""Calibration of probabilities (is 0.7 right 70 % of the time?), and how well uncertainty predicts errors."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffmedseg.precision import with_float64

#: Number of bins of equal width that count pixels. Their counts add up over images; bins of equal mass come later.
FINE_BINS = 1000


def fine_bins(probability: Tensor) -> Tensor:
    """Return the bin, int64 in [0, FINE_BINS), of each probability in [0, 1]."""
    bins = (with_float64(probability).double() * FINE_BINS).long().clamp(0, FINE_BINS - 1)
    return bins.to(probability.device)


def reliability_counts(probability: Tensor, target: Tensor) -> Tensor:
    """Count pixels by their probability. Counts of several images, slices or processes add up.

    Args:
        probability: (...), in [0, 1].
        target: (...), in [0, 1]: the truth, or the share of raters with foreground at the pixel.

    Returns:
        (3, FINE_BINS), float64, on the CPU: number of pixels, sum of probabilities, sum of targets.
    """
    p, y = with_float64(probability).flatten().double(), with_float64(target).flatten().double()
    bins = fine_bins(p)
    ones = torch.ones_like(p)
    return torch.stack([torch.bincount(bins, values, FINE_BINS) for values in (ones, p, y)]).cpu()


def merge_bins(counts: Tensor, bins: int = 15) -> Tensor:
    """Merge fine bins to bins of about equal mass, and drop empty bins.

    The lowest and the highest fine bin stay separate. Most of an image is certain background; with it, all uncertain
    pixels would share one bin, in which errors of both signs cancel.

    Args:
        counts: (3, FINE_BINS), of :func:`reliability_counts`.
        bins: Number of bins between the lowest and the highest.

    Returns:
        (3, n), n at most ``bins`` + 2: number of pixels, sum of probabilities, sum of targets.
    """
    merged = _merged(counts, bins)
    return merged[:, merged[0] > 0]


def _merged(counts: Tensor, bins: int) -> Tensor:
    """Merge fine bins (..., 3, FINE_BINS) to (..., 3, bins + 2); some may be empty."""
    uncertain = counts[..., 1:-1]
    mass = uncertain[..., :1, :] / uncertain[..., :1, :].sum(-1, keepdim=True).clamp(min=1)
    middle = mass.cumsum(-1) - mass / 2
    index = (middle * bins).long().clamp(0, bins - 1).expand_as(uncertain)
    merged = counts.new_zeros(*counts.shape[:-1], bins).scatter_add_(-1, index, uncertain)
    return torch.cat([counts[..., :1], merged, counts[..., -1:]], -1)


def expected_calibration_error(counts: Tensor, bins: int = 15) -> float:
    """Compute the mean of |probability - frequency| over pixels, in bins of equal mass (Naeini et al., AAAI 2015).

    Args:
        counts: (3, FINE_BINS), of :func:`reliability_counts`.
        bins: Number of bins.

    Returns:
        In [0, 1]; NaN without pixels. Lower is better.
    """
    return float(_calibration_errors(counts, bins))


def _calibration_errors(counts: Tensor, bins: int = 15) -> Tensor:
    """Return the errors (...) of counts (..., 3, FINE_BINS); NaN without pixels."""
    pixels, probability, target = _merged(counts, bins).unbind(-2)
    return (probability - target).abs().sum(-1) / pixels.sum(-1)


def calibration_error_interval(
    counts: Sequence[Tensor], confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of :func:`expected_calibration_error` over patients.

    Args:
        counts: (3, FINE_BINS) of each patient, of :func:`reliability_counts`.
        confidence: Coverage of the interval.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Lower and upper end; NaN for both if there are fewer than two patients.
    """
    if len(counts) < 2:
        return float("nan"), float("nan")
    patients = len(counts)
    times = np.random.default_rng(seed).multinomial(patients, [1 / patients] * patients, draws)
    resampled = (torch.from_numpy(times).double() @ torch.stack(list(counts)).flatten(1)).view(draws, 3, -1)
    low, high = np.quantile(_calibration_errors(resampled), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def proper_scores(probability: Tensor, target: Tensor, least: float = 1e-6) -> Tensor:
    """Compute the sums of Brier score and negative log-likelihood. Sums of several images add up.

    Args:
        probability: (..., H, W), in [0, 1].
        target: (..., H, W), in [0, 1]: the share of raters. The scores are means over the raters.
        least: Probabilities are clipped to [least, 1 - least]; otherwise one certain error would dominate.

    Returns:
        (3, ...), float64: number of pixels, sum of squared errors, sum of -log p in nats.
    """
    p, y = with_float64(probability).double(), with_float64(target).double()
    squared = p.square() - 2 * p * y + y  # the mean of (p - r)^2 over raters r in {0, 1} whose mean is y
    q = p.clamp(least, 1 - least)
    surprise = -(y * q.log() + (1 - y) * (1 - q).log())
    return torch.stack([torch.ones_like(p).sum((-2, -1)), squared.sum((-2, -1)), surprise.sum((-2, -1))])


def neighbourhood(reference: Tensor, margin: float = 0.5) -> Tensor:
    """Mark the neighbourhood of a lesion: its enlarged bounding box. Elsewhere, background is certain.

    Args:
        reference: (H, W), bool.
        margin: Enlargement of the box on each side, as a share of its height and width.

    Returns:
        (H, W), bool; empty without a lesion.
    """
    box = torch.zeros_like(reference)
    if reference.any():
        spans = []
        for axis, size in enumerate(reference.shape):
            positions = reference.any(1 - axis).nonzero()[:, 0]
            low, high = int(positions[0]), int(positions[-1]) + 1
            enlargement = max(round((high - low) * margin), 1)
            spans.append(slice(max(low - enlargement, 0), min(high + enlargement, size)))
        box[tuple(spans)] = True
    return box


def risk_coverage(doubt: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the risk of the kept cases, if the most uncertain cases go to a human (Geifman & El-Yaniv 2017).

    Args:
        doubt: (N,): uncertainty of each case. Ties share their mean risk.
        score: (N,): quality of each case in [0, 1], such as Dice.

    Returns:
        Coverage (N,), from 1 / N to 1, and the mean of 1 - score over the cases that are kept at each coverage.
    """
    uncertainty, risk = np.asarray(doubt, dtype=float), 1 - np.asarray(score, dtype=float)
    order = np.argsort(uncertainty, kind="stable")
    values, first, sizes = np.unique(uncertainty[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(risk[order], first) if len(values) else np.zeros(0)
    sorted_risk = np.repeat(sums / sizes, sizes)
    count = np.arange(1, len(risk) + 1)
    return count / max(len(risk), 1), np.cumsum(sorted_risk) / count


def aurc(doubt: ArrayLike, score: ArrayLike) -> float:
    """Compute the area under the risk-coverage curve, the mean risk over all coverages. Lower is better."""
    _, risk = risk_coverage(doubt, score)
    return float(risk.mean()) if len(risk) else float("nan")
