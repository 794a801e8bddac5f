"""Distances between the surfaces of two masks, by MONAI."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Surfaces agree within this distance in mm.
TOLERANCE_MM = 1.0
#: The same in pixels, as in huggingface.co/mokshhere/skin-lesion-segformer-gate2 on ISIC 2018.
TOLERANCE_PIXELS = 2.0


@dataclass(frozen=True)
class SurfaceScores:
    """Agreement of two surfaces.

    Attributes:
        hd95: 95th percentile of the distances between the surfaces, the larger of both directions, in the unit of the
            spacing. As in MONAI, a surface is the set of border pixels (voxels), each counted once. Tools that weight
            surface elements by area, such as DeepMind's surface-distance, give other values. 0 for two empty masks; the
            diagonal of the volume for an empty and a non-empty mask. Lower is better.
        nsd: Normalised surface Dice, the share of both surfaces within the tolerance of the other (Nikolov et al. 2018,
            arXiv 1809.04430). 1 for two empty masks, 0 for an empty and a non-empty mask. Higher is better.
        in_pixels: Whether distance and tolerance are in pixels, since the spacing is unknown.
        cl_dice: See :func:`~diffmedseg.metrics.centreline.centreline_dice`; NaN if it was not computed.
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
        tolerance: Surfaces agree within this distance, in the same unit; None for 1 mm or 2 pixels.

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
    num_near = sum(int((direction <= tolerance).sum()) for direction in distances)
    hd95 = max(float(direction.quantile(0.95)) for direction in distances)
    return SurfaceScores(hd95, num_near / sum(map(len, distances)), in_pixels)


def _box(mask: Tensor) -> tuple[slice, ...]:
    """Return the bounding box of a mask. The mask has a surface on the edge of the box, too."""
    positions = [mask.any([axis for axis in range(mask.ndim) if axis != kept]).nonzero() for kept in range(mask.ndim)]
    return tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in positions)


def stack_slices(slices: Sequence[Tensor], numbers: Sequence[int], depth: int = 0) -> Tensor:
    """Stack slices (K, H, W), bool, by their numbers to (K, D, H, W); missing slices are False.

    D is ``depth``, or the last number + 1 if that is more.

    Raises:
        ValueError: If two slices have the same number.
    """
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"Slices are numbered {sorted(numbers)}: one of them occurs twice.")
    regions, height, width = slices[0].shape
    volume = torch.zeros(regions, max(depth, max(numbers) + 1), height, width, dtype=torch.bool)
    for number, mask in zip(numbers, slices, strict=True):
        volume[:, number] = mask
    return volume
