"""Arrays of the size of a volume, with few bytes per voxel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def compact(values: NDArray[np.float32]) -> NDArray[Any]:
    """Return values as int16 if all of them are integers in its range, else a float32 copy. Most scanners store int16.

    Args:
        values: (D, ...).
    """
    small = np.empty(values.shape, np.int16)
    for source, target in zip(values, small, strict=True):  # slice by slice: a volume may be large
        with np.errstate(invalid="ignore"):  # a value that does not fit becomes another number
            target[:] = source
        if not np.array_equal(source, target):
            return values.copy()
    return small


class SteppedMap:
    """A map of values in [0, 1], rounded to whole steps. Files also store whole steps only.

    Indexing reads and writes values as float32. Half steps are rounded to the even step.

    Args:
        shape: Shape of the map, such as (K, D, H, W).
        steps: Steps per unit.
        highest: The highest value.

    Attributes:
        levels: The number of steps of each value: uint8 if all numbers fit, else uint16.
    """

    def __init__(self, shape: Sequence[int], steps: int, highest: float = 1.0) -> None:
        self.steps = steps
        self.levels: NDArray[Any] = np.zeros(tuple(shape), np.uint8 if steps * highest < 2**8 else np.uint16)

    def __setitem__(self, index: Any, values: NDArray[np.float32]) -> None:  # noqa: ANN401  as of arrays
        self.levels[index] = np.round(values * np.float32(self.steps))

    def __getitem__(self, index: Any) -> NDArray[np.float32]:  # noqa: ANN401
        return self.values_of(self.levels[index])

    def values_of(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        """Convert levels to values."""
        values: NDArray[np.float32] = np.divide(levels, np.float32(self.steps), dtype=np.float32)
        return values


class PackedMasks:
    """Masks (..., W) with one bit per voxel. Indexing along all axes except the last reads and writes bool.

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
