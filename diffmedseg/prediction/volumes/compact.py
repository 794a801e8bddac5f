"""Arrays of the size of a volume that take few bytes per voxel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def compact(values: NDArray[np.float32]) -> NDArray[Any]:
    """Return values as int16 where all are whole and fit, as most scanners store them; else a float32 copy.

    Args:
        values: (D, ...).
    """
    small = np.empty(values.shape, np.int16)
    for source, target in zip(values, small, strict=True):  # slice by slice: a volume may be large
        with np.errstate(invalid="ignore"):  # what does not fit is another number then
            target[:] = source
        if not np.array_equal(source, target):
            return values.copy()
    return small


class SteppedMap:
    """A map of values in [0, 1] in whole steps, which are all that is written of it.

    An index gives and takes the values of a part as float32. Half steps are rounded to even ones.

    Args:
        shape: Shape of the map, such as (K, D, H, W).
        steps: Steps per unit.
        highest: The highest value.

    Attributes:
        levels: The steps, in one byte per value where they fit, else in two.
    """

    def __init__(self, shape: Sequence[int], steps: int, highest: float = 1.0) -> None:
        self.steps = steps
        self.levels: NDArray[Any] = np.zeros(tuple(shape), np.uint8 if steps * highest < 2**8 else np.uint16)

    def __setitem__(self, index: Any, values: NDArray[np.float32]) -> None:  # noqa: ANN401  as of arrays
        self.levels[index] = np.round(values * np.float32(self.steps))

    def __getitem__(self, index: Any) -> NDArray[np.float32]:  # noqa: ANN401
        return self.values_of(self.levels[index])

    def values_of(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        """Return the values that levels stand for."""
        values: NDArray[np.float32] = np.divide(levels, np.float32(self.steps), dtype=np.float32)
        return values


class PackedMasks:
    """Masks (..., W) of a bit per voxel; an index of all axes but the last gives and takes a part as bool.

    Args:
        shape: (..., W).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._bits = np.zeros((*self.shape[:-1], -(-self.shape[-1] // 8)), np.uint8)

    def __setitem__(self, index: Any, masks: NDArray[np.bool_]) -> None:  # noqa: ANN401
        self._bits[index] = np.packbits(masks, axis=-1)

    def __getitem__(self, index: Any) -> NDArray[np.bool_]:  # noqa: ANN401
        return np.unpackbits(self._bits[index], axis=-1, count=self.shape[-1]).astype(np.bool_)
