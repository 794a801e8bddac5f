"""Drop connected parts of masks that are too small."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError


def smallest_sizes(smallest: Mapping[str, int], regions: Sequence[str]) -> list[int]:
    """Return the minimum size of a part for each region; 1 keeps all parts.

    Args:
        smallest: Minimum number of voxels, by region.
        regions: The model's regions.

    Raises:
        DataError: If the model lacks a region, or a size is below 1.
    """
    for region, size in smallest.items():
        if region not in regions or size < 1:
            raise DataError(
                f"--smallest {region}={size}: expected REGION=VOXELS with at least 1 voxel, and a region out of "
                f"{', '.join(regions)}."
            )
    return [smallest.get(region, 1) for region in regions]


def drop_small(masks: NDArray[np.bool_], sizes: Sequence[int], nested: bool) -> NDArray[np.bool_]:
    """Drop the 26-connected parts of each region that have fewer voxels than its size.

    Dropped voxels stay in the regions around: a small enhancing tumour becomes core. The BraTS entries of nnU-Net drop
    small enhancing tumours for the same reason, by the sum of all parts (Isensee et al. 2020, arXiv 2011.00848, section
    "BraTS-specific optimizations").

    Args:
        masks: (K, D, H, W), bool, from the outermost to the innermost region.
        sizes: Minimum number of voxels of a part, for each region.
        nested: Whether each region lies within the previous region. Inner regions then lose the dropped voxels of
            outer regions, too.

    Returns:
        The remaining masks, a new array.
    """
    remaining = masks.copy()
    for k, size in enumerate(sizes):
        if nested and k:
            remaining[k] &= remaining[k - 1]
        if size > 1 and remaining[k].any():
            _keep_large(remaining[k][_box(remaining[k])], size)
    return remaining


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest box around a mask that is not empty. Labels then take memory only for the box."""
    lines = (np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(slice(line[0], line[-1] + 1) for line in lines)


def _keep_large(mask: NDArray[np.bool_], size: int) -> None:
    """Clear the parts of a mask (D, H, W) that have fewer voxels than a size."""
    from scipy.ndimage import label

    parts, number = label(mask, np.ones((3, 3, 3)))
    voxels = np.zeros(number + 1, np.int64)
    for part in parts:  # slice by slice: counting and looking up take eight bytes per voxel
        voxels += np.bincount(part.ravel(), minlength=number + 1)
    large = voxels >= size
    for mask_slice, part in zip(mask, parts, strict=True):
        mask_slice &= large[part]
