"""Whether a NIfTI file says in one way where it lies."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_APART = 0.01  # mm: headers are rounded


def affine_note(path: Path) -> str:
    """Say what is ambiguous about the place of a NIfTI file; often nothing.

    Its header can hold two affines, qform and sform, each with a code that is 0 where it says nothing
    (https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h, section 3-D image orientation).
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        header = file.read(348)
    order = "<" if struct.unpack_from("<i", header)[0] == 348 else ">"
    qform_code, sform_code = struct.unpack_from(f"{order}2h", header, 252)
    if qform_code <= 0 and sform_code <= 0:
        return "its header does not say how it lies: left and right may be swapped"
    if qform_code <= 0 or sform_code <= 0:
        return ""
    qform, sform = _qform(header, order), np.array(struct.unpack_from(f"{order}12f", header, 280)).reshape(3, 4)
    far = np.array(struct.unpack_from(f"{order}3h", header, 42)) - 1
    apart = max(float(np.abs((qform - sform) @ [*voxel, 1]).max()) for voxel in (np.zeros(3), far))
    if apart <= _APART:
        return ""
    return (
        f"its qform and sform place it up to {apart:.2g} mm apart; results carry the one that SimpleITK reads, and "
        "other software may show them elsewhere"
    )


def _qform(header: bytes, order: str) -> NDArray[np.float64]:
    """Return the affine of the qform, (3, 4)."""
    fac, *sizes = struct.unpack_from(f"{order}4f", header, 76)
    b, c, d, *offset = struct.unpack_from(f"{order}6f", header, 256)
    a = np.sqrt(max(1 - b * b - c * c - d * d, 0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    scaled = rotation * np.array([sizes[0], sizes[1], sizes[2] * (-1 if fac < 0 else 1)])
    return np.column_stack([scaled, offset])
