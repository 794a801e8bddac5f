"""Cases at native resolution, to measure them or to write them in another format."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.reading.grid import Grid


@dataclass(frozen=True)
class Native:
    """An image or a volume at native resolution.

    Attributes:
        id: Name of the case.
        image: (C, h, w), uint8 in [0, 255], of a picture; (C, D, h, w), float32, of a volume.
        masks: (R, K, [D,] h, w), uint8 in {0, 1}: the masks of every rater.
        unsure: ([D,] h, w), bool: where masks are uncertain; None if they are certain everywhere.
        grid: Position of the voxels of a volume; None for a picture.
        outside: ([D,] h, w), bool: outside of the brain mask; None without a brain mask.
    """

    id: str
    image: NDArray[Any]
    masks: NDArray[np.uint8]
    unsure: NDArray[np.bool_] | None = None
    grid: Grid | None = None
    outside: NDArray[np.bool_] | None = None
