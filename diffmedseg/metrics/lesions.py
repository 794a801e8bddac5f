"""Lesion-wise scores of volumes, as in BraTS since 2023."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

#: HD95 of a missed or a false lesion in mm: about the diagonal of 240 x 240 x 155 mm.
PENALTY_MM = 374.0
_DILATIONS = 3  # lesions that touch after so many dilations count as one lesion
_SMALLEST_MM3 = 50.0  # true lesions of this volume or less do not count

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LesionScores:
    """Lesion-wise scores of one region of one case.

    Attributes:
        dice: Mean Dice over true and false lesions, in [0, 1]; a missed or a false lesion has 0. 1 without lesions.
        hd95: Mean HD95 in mm; a missed or a false lesion has :data:`PENALTY_MM`. 0 without lesions.
        found: Number of true lesions that a predicted lesion touches.
        missed: Number of other true lesions.
        false: Number of predicted lesions that touch no true lesion.
    """

    dice: float
    hd95: float
    found: int
    missed: int
    false: int


def lesion_scores(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> LesionScores:
    """Score a volume lesion by lesion, with the settings of BraTS 2023 for adult glioma.

    The reference is dilated three times; its 26-connected parts separate the true lesions, which consist of the voxels
    before the dilation. A predicted part (26-connected) belongs to each true lesion whose dilation it touches. Dice
    and HD95 compare a true lesion with all its predicted parts. True lesions of at most 50 mm3 do not count, and their
    predicted parts are not false. HD95 weights surface elements by their area, as the challenge does (with DeepMind's
    surface-distance).

    Source: github.com/rachitsaluja/BraTS-2023-Metrics, eval.py, commit 0e272e6.

    Args:
        prediction: (D, H, W), bool.
        reference: The same.
        spacing: Distance of slices, rows and columns, in mm.

    Raises:
        ValueError: If the masks are not volumes of the same shape.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(
            f"Prediction {prediction.shape} and reference {reference.shape} have to be volumes of one shape."
        )
    prediction, reference = _crop(prediction, reference)
    from scipy.ndimage import find_objects

    lesions, parts = _parts(_grown(reference)), _parts(prediction)
    lesions *= reference
    dice, hd95, found, missed = 0.0, 0.0, 0, 0
    matched_parts: set[int] = set()
    for number, box in enumerate(find_objects(lesions), 1):
        near_box = _wider(box, reference.shape)
        touched = set(np.unique(parts[near_box][_grown(lesions[near_box] == number)]).tolist()) - {0}
        matched_parts |= touched
        lesion = lesions == number
        if lesion.sum() * np.prod(spacing) <= _SMALLEST_MM3:
            continue
        found, missed = found + bool(touched), missed + (not touched)
        matched = np.isin(parts, list(touched))
        dice += 2 * float((matched & lesion).sum() / (matched.sum() + lesion.sum()))
        hd95 += _hd95(matched, lesion, spacing) if touched else PENALTY_MM
    false = int(parts.max(initial=0)) - len(matched_parts)
    total = found + missed + false
    if not total:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    return LesionScores(dice / total, (hd95 + false * PENALTY_MM) / total, found, missed, false)


def _crop(prediction: Mask, reference: Mask) -> tuple[Mask, Mask]:
    """Cut both masks to the box around them, with room for the lesions to grow."""
    from scipy.ndimage import find_objects

    boxes = find_objects((prediction | reference).astype(np.int8))
    box = _wider(boxes[0], reference.shape) if boxes else (slice(0, 1),) * 3
    return prediction[box], reference[box]


def _wider(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(span.start - _DILATIONS, 0), min(span.stop + _DILATIONS, size))
        for span, size in zip(box, shape, strict=True)
    )


def _grown(mask: Mask) -> Mask:
    """Dilate a mask three times over faces and edges, as the challenge does."""
    from scipy.ndimage import binary_dilation, generate_binary_structure

    grown: Mask = binary_dilation(mask, generate_binary_structure(3, 2), iterations=_DILATIONS)
    return grown


def _parts(mask: Mask) -> NDArray[np.int32]:
    """Number the 26-connected parts from 1; 0 is background."""
    from scipy.ndimage import label

    numbered: NDArray[np.int32] = label(mask, np.ones((3, 3, 3)))[0]
    return numbered


def _hd95(a: Mask, b: Mask, spacing: Sequence[float]) -> float:
    """Return the larger 95th percentile of both directions, in mm, weighted by surface area."""
    from monai.metrics.utils import get_edge_surface_distance

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # MONAI's use of itself
        edges, distances, areas = get_edge_surface_distance(
            torch.from_numpy(a), torch.from_numpy(b), spacing=list(map(float, spacing)), use_subvoxels=True,
            symmetric=True,
        )  # fmt: skip
    percentiles = []
    for edge, distance, area in zip(edges, distances, areas, strict=True):
        order = distance.argsort()
        share = area[edge].double()[order].cumsum(0)
        first = int(torch.searchsorted(share, 0.95 * share[-1]))
        percentiles.append(float(distance[order][min(first, len(order) - 1)]))
    return max(percentiles)
