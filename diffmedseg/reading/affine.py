"""Positions of the voxels of a NIfTI file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.grid import UNSAID, Grid, check_straight
from diffmedseg.reading.nifti import NiftiHeader

_APART = 0.01  # mm: headers are rounded
_LENGTHS = 1e-3  # of a voxel's size: pixdim may be rounded to few digits
_ROUNDED = 1e-5  # of float32: if pixdim and the sform agree this well, pixdim has the exact size
_QUATERNION = 1e-5  # beyond length 1

_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI counts to the right, front and top; ITK to the left, back and top


@np.errstate(over="ignore", invalid="ignore")  # values that are not finite are refused below
def find_grid(header: NiftiHeader, path: Path) -> Grid:
    """Return the grid of a file's voxels: from its sform, else from its qform, else from the voxel sizes.

    Raises:
        DataError: If the header has voxel sizes of 0 or below, sheared axes, or NaN. Names the file.
    """
    fields, note = header.fields, ""
    sizes = fields["pixdim"][1:4]
    valid_sizes = bool(np.isfinite(sizes).all() and (sizes > 0).all())
    if fields["sform_code"] > 0:
        affine, name = fields["srow"], "sform"
        note = _sform_note(header, valid_sizes)
    elif not valid_sizes:
        size_text = " x ".join(f"{size:g}" for size in sizes)
        raise DataError(f"{path} has voxels of {size_text} mm by its header: correct pixdim, or convert it again")
    elif fields["qform_code"] > 0:
        affine, name = _qform(header), "qform"
    else:
        affine, name = _no_form(header), "header"
        note = UNSAID
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if not (np.isfinite(affine).all() and np.isfinite(spacing).all() and spacing.all()):
        raise DataError(f"{path} has a damaged {name} (0 or NaN in its affine): correct it, or convert it again")
    direction = affine[:, :3] / spacing
    check_straight(path, direction)
    if valid_sizes and np.allclose(spacing, sizes, rtol=_ROUNDED, atol=0):
        spacing = sizes
    return Grid(spacing, _TO_LPS @ affine[:, 3], _TO_LPS @ direction, note)


def _sform_note(header: NiftiHeader, valid_sizes: bool) -> str:
    """Return a note on how pixdim or the qform contradict the sform; empty if they agree."""
    fields, notes = header.fields, []
    spacing, sizes = np.linalg.norm(fields["srow"][:, :3], axis=0), fields["pixdim"][1:4]
    if not np.allclose(spacing, sizes, rtol=_LENGTHS, atol=0):
        by_sform, by_pixdim = (" x ".join(f"{length:g}" for length in lengths) for lengths in (spacing, sizes))
        notes.append(f"its voxels are {by_sform} mm by its sform and {by_pixdim} mm by pixdim")
    if fields["qform_code"] > 0 and valid_sizes and np.isfinite(qform := _qform(header)).all():
        last_voxel = np.array([*header.size, 2]) - 1.0
        distance = max(
            np.abs((qform - fields["srow"]) @ voxel).max() for voxel in (np.array([0.0, 0, 0, 1]), last_voxel)
        )
        if distance > _APART:
            notes.append(f"its qform and sform place it up to {distance:.2g} mm apart")
    contradictions = " and ".join(notes)
    return (
        f"{contradictions}; the sform is used, and software that uses the other may show results elsewhere"
        if contradictions
        else ""
    )


def _qform(header: NiftiHeader) -> NDArray[np.float64]:
    """Return the affine of the qform, (3, 4); NaN if its quaternion is longer than 1."""
    pixdim, quatern = header.fields["pixdim"], header.fields["quatern"]
    length = float(quatern @ quatern)
    if not length <= 1 + _QUATERNION:
        return np.full((3, 4), np.nan)
    b, c, d = quatern / np.sqrt(max(length, 1.0))
    a = np.sqrt(max(1 - b * b - c * c - d * d, 0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = pixdim[1:4] * np.array([1, 1, -1 if pixdim[0] < 0 else 1])
    return np.column_stack([rotation * sizes, header.fields["qoffset"]])


def _no_form(header: NiftiHeader) -> NDArray[np.float64]:
    """Return a default affine: radiological, with the origin in the centre, as in FSL and nibabel."""
    scaled = np.diag(header.fields["pixdim"][1:4] * np.array([-1, 1, 1]))
    return np.column_stack([scaled, -scaled @ ((np.array(header.size) - 1) / 2)])
