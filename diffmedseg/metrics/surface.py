"""How far apart the surfaces of two masks are, by MONAI."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SurfaceScores:
    """Agreement of two surfaces.

    Attributes:
        hd95: 95th percentile of the distances between the surfaces, the larger of both directions, in the spacing's
            unit. Two empty masks have 0; an empty and a non-empty one the diagonal of the volume. Lower is better.
        nsd: Normalised surface Dice, the share of both surfaces that lies within the tolerance of the other. Two empty
            masks have 1, an empty and a non-empty one 0. Higher is better.
        cl_dice: See :func:`~diffmedseg.metrics.centreline.centreline_dice`; NaN where nobody asked for it.
    """

    hd95: float
    nsd: float
    cl_dice: float = math.nan


def surface_scores(
    prediction: Tensor, reference: Tensor, spacing: Sequence[float], tolerance: float = 1.0
) -> SurfaceScores:
    """Compare the surfaces of two masks.

    Args:
        prediction: (H, W) or (D, H, W), bool.
        reference: The same.
        spacing: Distance of neighbouring pixels along each axis, such as in mm.
        tolerance: How far apart surfaces may be and still agree, in the same unit.

    Raises:
        ValueError: If shapes differ, or do not fit the spacing.
    """
    if prediction.shape != reference.shape or prediction.ndim != len(spacing):
        raise ValueError(
            f"Prediction {tuple(prediction.shape)}, reference {tuple(reference.shape)} and spacing {tuple(spacing)} "
            "have to have the same dimensions."
        )
    if not prediction.any() and not reference.any():
        return SurfaceScores(0.0, 1.0)
    if not prediction.any() or not reference.any():
        return SurfaceScores(math.hypot(*(n * step for n, step in zip(prediction.shape, spacing, strict=True))), 0.0)
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    a, b, steps = prediction[None, None].cpu(), reference[None, None].cpu(), list(map(float, spacing))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # MONAI's use of itself
        hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=steps)
        nsd = compute_surface_dice(a, b, [tolerance], include_background=True, spacing=steps)
    return SurfaceScores(float(hd95), float(nsd))


def stack_slices(slices: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
    """Put slices (K, H, W), bool, where their numbers say; (K, D, H, W), False where there is no slice.

    Raises:
        ValueError: If two slices have the same number.
    """
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"Slices are numbered {sorted(numbers)}: one of them occurs twice.")
    regions, height, width = slices[0].shape
    volume = torch.zeros(regions, max(numbers) + 1, height, width, dtype=torch.bool)
    for number, one in zip(numbers, slices, strict=True):
        volume[:, number] = one
    return volume
