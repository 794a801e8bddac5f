"""Writing NIfTI files slab by slab."""

import gzip
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.atomic import write_whole
from diffmedseg.reading.grid import Frame

_HEADER = 352  # bytes of a NIfTI-1 header and the flags of its extensions
_DIM = 40  # offset in bytes of the number of axes and seven sizes, with 16 bits each
_MOST = 2**15 - 1  # highest number of voxels along an axis
_LEVEL = 6  # of compression, as in ITK


def write_nifti(
    path: Path, frame: Frame, dtype: type[np.generic], slabs: Iterable[NDArray[Any]], volumes: int | None = None
) -> None:
    """Write a compressed file from a stream of values. The whole file is never in memory.

    Args:
        path: The file, ``.nii.gz``.
        frame: Number and positions of the voxels.
        dtype: Type of the voxels.
        slabs: The voxels in the order of the file, in parts of any shape.
        volumes: Number of volumes in a four-dimensional file; None for a three-dimensional file.

    Raises:
        ValueError: If an axis has more voxels than NIfTI allows.
    """
    header = _header(frame, dtype, volumes)

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file, gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
            packed.write(header)
            for slab in slabs:
                packed.write(np.ascontiguousarray(slab, dtype).data)

    write_whole(path, save)


def _header(frame: Frame, dtype: type[np.generic], volumes: int | None) -> bytes:
    """Return the header that ITK writes for a single voxel of the frame's grid, with the sizes of the frame."""
    import SimpleITK as sitk

    sizes = (*frame.size, *(() if volumes is None else (volumes,)))
    if max(sizes) > _MOST:
        raise ValueError(f"The sizes are {sizes}; a NIfTI file has at most {_MOST} voxels along an axis.")
    image = sitk.GetImageFromArray(np.zeros((1, 1, 1), dtype))
    frame.grid.give(image)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "voxel.nii"
        sitk.WriteImage(image if volumes is None else sitk.JoinSeries([image]), str(path))
        header = bytearray(path.read_bytes()[:_HEADER])
    dim = np.frombuffer(header, "<i2", 8, _DIM)
    dim[0], dim[1 : len(sizes) + 1] = len(sizes), sizes
    return bytes(header)
