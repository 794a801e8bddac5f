"""How far apart the surfaces of two masks are, by MONAI."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: How far apart surfaces may be and still agree.
TOLERANCE_MM = 1.0
#: As huggingface.co/mokshhere/skin-lesion-segformer-gate2 has it on ISIC 2018.
TOLERANCE_PIXELS = 2.0


@dataclass(frozen=True)
class SurfaceScores:
    """Agreement of two surfaces.

    Attributes:
        hd95: 95th percentile of the distances between the surfaces, the larger of both directions, in the spacing's
            unit. A surface is the set of the mask's border pixels (voxels), each counted once, as MONAI does. Tools
            that weigh surface elements by their area, such as DeepMind's surface-distance, give other values. Two empty
            masks have 0; an empty and a non-empty one the diagonal of the volume. Lower is better.
        nsd: Normalised surface Dice, the share of both surfaces that lies within the tolerance of the other (Nikolov et
            al. 2018, arXiv 1809.04430). Two empty masks have 1, an empty and a non-empty one 0. Higher is better.
        in_pixels: Whether distance and tolerance are in pixels, since nobody knows the spacing.
        cl_dice: See :func:`~diffmedseg.metrics.centreline.centreline_dice`; NaN where nobody asked for it.
    """

    hd95: float
    nsd: float
    in_pixels: bool = False
    cl_dice: float = math.nan


def surface_scores(
    prediction: Tensor, reference: Tensor, spacing: Sequence[float] | None = None, tolerance: float | None = None
) -> SurfaceScores:
    """Compare the surfaces of two masks.

    Args:
        prediction: (H, W) or (D, H, W), bool.
        reference: The same.
        spacing: Distance of neighbouring pixels along each axis, such as in mm; None measures in pixels.
        tolerance: How far apart surfaces may be and still agree, in the same unit; None for 1 mm or 2 pixels.

    Raises:
        ValueError: If shapes differ, or do not fit the spacing.
    """
    in_pixels = spacing is None
    if tolerance is None:
        tolerance = TOLERANCE_PIXELS if in_pixels else TOLERANCE_MM
    spacing = (1.0,) * prediction.ndim if spacing is None else spacing
    if prediction.shape != reference.shape or prediction.ndim != len(spacing):
        raise ValueError(
            f"Prediction {tuple(prediction.shape)}, reference {tuple(reference.shape)} and spacing {tuple(spacing)} "
            "have to have the same dimensions."
        )
    if not prediction.any() and not reference.any():
        return SurfaceScores(0.0, 1.0, in_pixels)
    if not prediction.any() or not reference.any():
        diagonal = math.hypot(*(n * step for n, step in zip(prediction.shape, spacing, strict=True)))
        return SurfaceScores(diagonal, 0.0, in_pixels)
    from monai.metrics.utils import get_edge_surface_distance

    box = _box(prediction | reference)
    a, b, steps = prediction[box].cpu(), reference[box].cpu(), list(map(float, spacing))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # MONAI's use of itself
        _, distances, _ = get_edge_surface_distance(a, b, spacing=steps, symmetric=True)
    near = sum(int((one <= tolerance).sum()) for one in distances)
    hd95 = max(float(one.quantile(0.95)) for one in distances)
    return SurfaceScores(hd95, near / sum(map(len, distances)), in_pixels)


def _box(mask: Tensor) -> tuple[slice, ...]:
    """Return the box around a mask, on whose edge it still has a surface: outside there is nothing."""
    where = [mask.any([axis for axis in range(mask.ndim) if axis != kept]).nonzero() for kept in range(mask.ndim)]
    return tuple(slice(int(one[0]), int(one[-1]) + 1) for one in where)


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
