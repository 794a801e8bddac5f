"""Overlap, diversity and the generalised energy distance of boolean masks, on any device.

Policy: two empty masks agree fully (Dice = IoU = 1, distance 0); an empty and a non-empty mask do not agree at all.
Distances are d = 1 - IoU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffmedseg.precision import with_float64

# Pixels of all masks that are compared at once, to limit the memory for large masks.
_CHUNK = 2**22


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator == 0, 1.0, numerator / denominator.clamp(min=1))


def dice_from_counts(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """Compute Dice = 2 TP / (2 TP + FP + FN), 1 if all counts are 0. Higher is better."""
    return _ratio(2 * tp, 2 * tp + fp + fn)


def iou_from_counts(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """Compute IoU = TP / (TP + FP + FN), 1 if all counts are 0. Higher is better."""
    return _ratio(tp, tp + fp + fn)


def confusion_counts(prediction: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count true positive, false positive and false negative pixels.

    Args:
        prediction: (..., H, W), bool.
        reference: (..., H, W), bool.

    Returns:
        Three tensors of shape (...), int64.

    Raises:
        ValueError: If a mask is not boolean or the shapes differ.
    """
    _check_bool(prediction, reference)
    if prediction.shape != reference.shape:
        raise ValueError(
            f"Prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ in shape."
        )
    return tuple(  # type: ignore[return-value]
        mask.sum((-2, -1)) for mask in (prediction & reference, prediction & ~reference, ~prediction & reference)
    )


def dice(prediction: Tensor, reference: Tensor) -> Tensor:
    """Compute Dice of each pair of masks (..., H, W), bool: shape (...). Higher is better."""
    return dice_from_counts(*confusion_counts(prediction, reference))


def iou(prediction: Tensor, reference: Tensor) -> Tensor:
    """Compute IoU (Jaccard index) of each pair of masks (..., H, W), bool: shape (...). Higher is better."""
    return iou_from_counts(*confusion_counts(prediction, reference))


def soft_overlap(probability: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the two sums for :func:`soft_dice_confidence`. For a volume, add the sums of its slices.

    Args:
        probability: (..., H, W), in [0, 1].
        mask: (..., H, W), bool.

    Returns:
        Sum of p over the mask; and sum of p over the image plus the area of the mask: float64, shape (...).
    """
    _check_bool(mask)
    mask, probability = with_float64(mask), with_float64(probability)
    inside = torch.where(mask, probability, 0).sum((-2, -1), dtype=torch.float64)
    return inside, probability.sum((-2, -1), dtype=torch.float64) + mask.sum((-2, -1))


def soft_dice_confidence(inside: Tensor, total: Tensor) -> Tensor:
    """Compute the soft Dice confidence, 2 sum(p m) / (sum(p) + sum(m)): the expected Dice of a mask.

    Borges, Pacheco & Silva 2024, arXiv 2402.10665. It ranks images for any method; with calibrated probability it
    estimates Dice. It is 0 for an empty mask with any probability above 0, and 1 if both are 0.

    Args:
        inside: First sum of :func:`soft_overlap`.
        total: Second sum.

    Returns:
        In [0, 1], of the same shape.
    """
    return torch.where(total == 0, 1.0, 2 * inside / total.clamp(min=torch.finfo(total.dtype).tiny))


def mask_confidence(inside: Tensor, total: Tensor, mask_empty: Tensor, samples_empty: Tensor) -> Tensor:
    """Compute the soft Dice confidence; for an empty mask, return the share of empty samples instead.

    Args:
        inside: First sum of :func:`soft_overlap`.
        total: Second sum.
        mask_empty: Whether the mask is empty, bool.
        samples_empty: Share of the samples that are empty, in [0, 1].

    Returns:
        In [0, 1], float64.
    """
    return torch.where(mask_empty, samples_empty.double(), soft_dice_confidence(inside, total))


def pairwise_overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Count intersection and union of every mask of one set with every mask of another. For a volume, add its slices.

    Args:
        a: (N, ...), bool.
        b: (M, ...), bool, of the same trailing shape.

    Returns:
        Intersections and unions, (N, M) each, float64.
    """
    _check_bool(a, b)
    a, b = with_float64(a).flatten(1), with_float64(b).flatten(1)
    pixels = max(_CHUNK // (len(a) + len(b)), 1)
    exact = torch.zeros(len(a) + 1, len(b) + 1, dtype=torch.float64, device=a.device)  # float64 even under autocast
    intersection, area_a, area_b = exact[1:, 1:].clone(), exact[1:, :1].clone(), exact[:1, 1:].clone()
    for x, y in zip(torch.split(a, pixels, 1), torch.split(b, pixels, 1), strict=True):
        x, y = x.double(), y.double()
        intersection += x @ y.T
        area_a += x.sum(1, keepdim=True)
        area_b += y.sum(1)
    return intersection, area_a + area_b - intersection


def distance_from_overlap(intersection: Tensor, union: Tensor) -> Tensor:
    """Compute d = 1 - IoU from counts of :func:`pairwise_overlap`, in [0, 1]; 0 for two empty masks."""
    return 1 - _ratio(intersection, union)


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """Compute d = 1 - IoU between every mask of one set and every mask of another.

    Args:
        a: (N, ...), bool.
        b: (M, ...), bool, of the same trailing shape.

    Returns:
        (N, M), float64, in [0, 1].
    """
    return distance_from_overlap(*pairwise_overlap(a, b))


def diversity(samples: Tensor) -> Tensor:
    """Compute the mean distance between two different samples, E[d(s, s')], in [0, 1]; NaN for a single sample.

    Args:
        samples: (S, ...), bool.
    """
    return off_diagonal_mean(pairwise_distance(samples, samples))


@dataclass(frozen=True)
class EnergyDistance:
    """The generalised energy distance between samples and raters, with its terms. Lower is better.

    Attributes:
        biased: 2 E[d(s, y)] - E[d(s, s')] - E[d(y, y')]. Each mean is over all pairs, including each mask with itself,
            as in papers (Kohl et al. 2018, arXiv 1806.05034, eq. 3). The bias is diversity / S.
        unbiased: The same, but with E[d(s, s')] over pairs of different samples, so that it does not depend on S. The
            raters count as the whole population, so its expectation is at least 0.
        sample_rater: E[d(s, y)].
        sample_sample: E[d(s, s')] over pairs of different samples.
        rater_rater: E[d(y, y')] over all pairs of raters.
    """

    biased: Tensor
    unbiased: Tensor
    sample_rater: Tensor
    sample_sample: Tensor
    rater_rater: Tensor


def generalized_energy_distance(samples: Tensor, raters: Tensor) -> EnergyDistance:
    """Compare a set of samples with a set of raters, both of one image and region.

    Args:
        samples: (S, ...), bool.
        raters: (R, ...), bool, of the same trailing shape; numbers may differ.

    Raises:
        ValueError: If there is one rater, since one mask is no distribution. Report :func:`diversity` then.
    """
    if len(raters) < 2:
        raise ValueError("GED compares distributions and needs at least two raters; with one, report the diversity.")
    return energy_from_distances(
        pairwise_distance(samples, samples), pairwise_distance(samples, raters), pairwise_distance(raters, raters)
    )


def energy_from_distances(samples: Tensor, across: Tensor, raters: Tensor) -> EnergyDistance:
    """Compute the energy distance from distances of samples (S, S), samples to raters (S, R), and raters (R, R)."""
    different, sample_rater, rater_rater = off_diagonal_mean(samples), across.mean(), raters.mean()
    return EnergyDistance(
        biased=2 * sample_rater - samples.mean() - rater_rater,
        unbiased=2 * sample_rater - different - rater_rater,
        sample_rater=sample_rater,
        sample_sample=different,
        rater_rater=rater_rater,
    )


def off_diagonal_mean(matrix: Tensor) -> Tensor:
    """Average a square matrix of distances over pairs of different masks; NaN for a single mask."""
    n = len(matrix)
    return (matrix.sum() - matrix.trace()) / (n * (n - 1)) if n > 1 else matrix.new_tensor(float("nan"))


def _check_bool(*masks: Tensor) -> None:
    for mask in masks:
        if mask.dtype != torch.bool:
            raise ValueError(
                f"Metrics take boolean masks; got {mask.dtype}. Threshold the mask first, such as mask > 0.5."
            )
