"""Read NIfTI files of a single slice as pictures."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.nifti import read_header, read_nifti

#: Names of the files that are read here.
SLICES = (".nii.gz", ".nii")
#: Percentiles of a slice that become black and white if no range is given.
PERCENTILES = (0.5, 99.5)
_MOST_MODALITIES = 4  # of one slice; more are the slices of a volume


def is_slice(path: Path) -> bool:
    """Return whether a file is a NIfTI file, by its name."""
    return path.name.lower().endswith(SLICES)


def slice_size(path: Path) -> tuple[int, int]:
    """Return height and width of a slice from its header: the sizes of its second and its first axis.

    Raises:
        DataError: If the file is damaged, or a volume; names the file.
    """
    header = read_header(path)
    *_, height, width = _without_ones((header.volumes, *header.size[::-1]), path)
    return height, width


def read_slice(path: Path, modality: int | None = None) -> NDArray[np.float32]:
    """Read a slice, (h, w).

    Args:
        path: The file.
        modality: Number of the modality, from 1; None for a slice of a single modality.

    Raises:
        DataError: If the file is damaged, is a volume, or has another number of modalities; names the file.
    """
    values, _ = read_nifti(path)
    shape = _without_ones(values.shape, path)
    slices = values.reshape(-1, *shape[-2:])
    if modality is None and len(slices) > 1:
        raise DataError(f"{path} has {len(slices)} modalities; expected one picture. Set layout.modality", [path.name])
    if not 1 <= (modality or 1) <= len(slices):
        raise DataError(
            f"{path} has {len(slices)} modalities; there is no {modality}. Set layout.modality", [path.name]
        )
    chosen: NDArray[np.float32] = slices[(modality or 1) - 1]
    return chosen


def to_grey_levels(values: NDArray[np.float32], value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Convert a slice to 8 bits.

    Args:
        values: (h, w).
        value_range: Values that become black and white; None for the percentiles of the slice. A constant slice becomes
            black.
    """
    low, high = np.percentile(values, PERCENTILES) if value_range is None else value_range
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    levels: NDArray[np.uint8] = scaled.round().clip(0, 255).astype(np.uint8)
    return levels


def _without_ones(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Return (height, width) or (modalities, height, width), without axes of size 1."""
    sides = tuple(side for side in shape if side > 1)
    if len(sides) == 2 or (len(sides) == 3 and sides[0] <= _MOST_MODALITIES):
        return sides
    shown_sides = " x ".join(map(str, sides[::-1]))
    raise DataError(f"{path} has {shown_sides} voxels: a volume, where a single slice is expected", [path.name])
