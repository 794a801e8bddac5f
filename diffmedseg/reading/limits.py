"""What no file may exceed, checked before memory is taken."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError

_MOST = 2**30  # voxels, 4 GB as read: ours
_RATIO = 1032  # of zlib: no content shrinks further


def check_size(path: Path, voxels: int, content: int) -> None:
    """Refuse a file whose header says more than it can hold, or than fits into memory.

    Args:
        path: The file.
        voxels: How many values it says it has.
        content: How many bytes it says it has, when decompressed.

    Raises:
        DataError: Names the file.
    """
    held = path.stat().st_size
    if content > _RATIO * (held + 64):
        raise DataError(f"{path} is cut short ({held:,} bytes for {content:,}): download it again")
    if voxels > _MOST:
        raise DataError(f"{path} has {voxels:,} voxels; at most {_MOST:,} are read: crop or resample it")


def count_bad(path: Path, values: NDArray[np.float32]) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: Names the file, and how many there are.
    """
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise DataError(f"{path} has {bad} voxels that are NaN or infinite: download it again, or set them to 0")
