"""Limits on the size of files, checked before memory is allocated."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError

_MOST = 2**30  # voxels, 4 GB as read: ours
_RATIO = 1032  # largest compression ratio of zlib


def check_size(path: Path, voxels: int, content: int) -> None:
    """Refuse a file if its header announces more than the file can hold, or more than fits into memory.

    Args:
        path: The file.
        voxels: Number of values by the header.
        content: Number of decompressed bytes by the header.

    Raises:
        DataError: Names the file.
    """
    file_size = path.stat().st_size
    if content > _RATIO * (file_size + 64):
        raise DataError(f"{path} is cut short ({file_size:,} bytes for {content:,}): download it again")
    if voxels > _MOST:
        raise DataError(f"{path} has {voxels:,} voxels; at most {_MOST:,} are read: crop or resample it")


def count_bad(path: Path, values: NDArray[np.float32]) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: If there are any. Names the file and their number.
    """
    num_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if num_bad:
        raise DataError(f"{path} has {num_bad} voxels that are NaN or infinite: download it again, or set them to 0")
