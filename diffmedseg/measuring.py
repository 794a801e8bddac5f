"""Measure the volumes of segmented regions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from diffmedseg.segmentation import Segmentation, sample_areas


class VolumeEstimate(NamedTuple):
    """The volume of a region.

    Attributes:
        ml: Volume of the mask in ml.
        low: Lower end in ml of the interval of a calibrated model; None without calibration. The interval contains the
            true volume with the coverage of the calibration.
        high: Upper end in ml.
    """

    ml: float
    low: float | None = None
    high: float | None = None


def check_spacing(spacing: Sequence[float], keys: Sequence[str] | None) -> tuple[float, float, float]:
    """Check the size of a voxel and return it.

    Args:
        spacing: Distances between slices, rows and columns in mm.
        keys: Keys of the slices' noise; None for the segmenter's own keys.

    Raises:
        ValueError: If there are not three positive lengths, or the slices have different keys.
    """
    lengths = [float(length) for length in spacing]
    if len(lengths) != 3 or not all(0 < length < math.inf for length in lengths):
        raise ValueError(f"spacing is {spacing}; expected the distances of slices, rows and columns in mm, above 0.")
    if keys is not None and len(set(keys)) > 1:
        raise ValueError("With spacing, all images are slices of one volume. Give all of them the same key, or none.")
    return lengths[0], lengths[1], lengths[2]


def volumes_ml(result: Segmentation) -> dict[str, VolumeEstimate]:
    """Measure the regions of a volume. The images of the segmentation are all its slices.

    Returns:
        The volume of each region, in the model's order.

    Raises:
        ValueError: If the size of a voxel is not known.
    """
    origin = result.origin
    if origin is None or origin.spacing is None:
        raise ValueError(
            "The size of the voxels is not known. Segment all slices of a volume together, and give the distance of "
            "slices, rows and columns in mm: model.segment(slices, spacing=(5, 0.8, 0.8))."
        )
    voxel = math.prod(origin.spacing) / 1000  # mm3 to ml
    volumes = (result.mask.sum((0, 2, 3)) * voxel).tolist()
    conformal = origin.model.conformal
    if conformal is None:
        pairs = zip(origin.model.regions, volumes, strict=True)
        return {region: VolumeEstimate(volume) for region, volume in pairs}
    height, width = (int(length) for length in result.mask.shape[-2:])
    samples = sample_areas(result.samples, (height, width), result.window).sum(0)
    low, high = (conformal.areas(samples, result.mask[:, 0].numel()) * voxel).tolist()
    estimates = zip(origin.model.regions, volumes, low, high, strict=True)
    return {region: VolumeEstimate(volume, least, most) for region, volume, least, most in estimates}
