"""Cutting a volume into slices along an axis, and laying maps of slices back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.mri.store import shrink_slices
from diffmedseg.data.mri.volumes import NormalVolume
from diffmedseg.errors import DataError, unknown

AnyType = TypeVar("AnyType", bound=np.generic)

#: The axis of (D, H, W), which run from foot to head, front to back and right to left, that each kind of slices cuts.
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}
#: That of the slices which models of volumes learn.
LEARNED = "axial"


@dataclass(frozen=True)
class Plane:
    """Slices of a volume along one axis, and how they become images of the model.

    Axial slices fill the model's grid, as they did in training, whatever their shape. All other slices are shown
    upright with square pixels: the longer side fills the grid, and what is left of the grid is background.

    Attributes:
        axis: Out of :data:`AXES`.
        shape: Number of slices, rows and columns.
        spacing: Distance of slices, rows and columns, in mm.
        size: Height and width of the model's grid.
        shown: Rows and columns of the grid that show a slice.
    """

    axis: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    size: tuple[int, int]
    shown: tuple[slice, slice] = field(init=False)

    def __post_init__(self) -> None:
        """Find out what shows a slice."""
        height, width = self.size
        rows, columns = self.shape[1] * self.spacing[1], self.shape[2] * self.spacing[2]  # mm
        longer = max(rows, columns)
        if self.axis == LEARNED:
            rows = columns = longer
        shown = _middle(height, rows / longer), _middle(width, columns / longer)
        object.__setattr__(self, "shown", shown)

    @classmethod
    def of(cls, axis: str, shape: Sequence[int], spacing: Sequence[float], size: tuple[int, int]) -> "Plane":
        """Return the slices of a volume.

        Args:
            axis: Out of :data:`AXES`.
            shape: (D, H, W) of the volume.
            spacing: Distance of neighbours along these, in mm.
            size: Height and width of the model's grid.
        """
        number = AXES[axis]
        order = [number, *(other for other in range(3) if other != number)]
        depth, rows, columns = (int(shape[one]) for one in order)
        between, down, across = (float(spacing[one]) for one in order)
        return cls(axis, (depth, rows, columns), (between, down, across), size)

    def turn(self, values: NDArray[AnyType]) -> NDArray[AnyType]:
        """Return a view of (..., D, H, W) as slices, rows and columns, with the head up."""
        number = AXES[self.axis]
        turned = np.moveaxis(values, number - 3, -3)
        return turned if self.axis == LEARNED else turned[..., ::-1, :]

    def images(self, volume: NormalVolume) -> Tensor:
        """Return the slices of a volume on the model's grid: (slices, C, *size), float32, in [-1, 1]."""
        rows, columns = self.shown
        inside = shrink_slices(volume.turned(self.turn), (rows.stop - rows.start, columns.stop - columns.start))
        around = (columns.start, self.size[1] - columns.stop, rows.start, self.size[0] - rows.stop)
        return F.pad(inside, around, value=-1.0) if any(around) else inside

    def cut(self, maps: Tensor) -> Tensor:
        """Take from maps (..., *size) what shows a slice."""
        return maps[(..., *self.shown)]


def _middle(side: int, share: float) -> slice:
    """Return the middle of a side of the grid that has a share of it, and a pixel at least."""
    length = max(round(side * share), 1)
    first = (side - length) // 2
    return slice(first, first + length)


def check_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """Return axes in the order of :data:`AXES`.

    Raises:
        DataError: If there are none, one is unknown, or one occurs twice.
    """
    for axis in axes:
        if axis not in AXES:
            raise DataError(f"--axes: {unknown('axis', axis, list(AXES))}")
    if not axes or len(set(axes)) < len(axes):
        raise DataError(f"--axes {','.join(axes)}: name each axis once, out of {', '.join(AXES)}.")
    return tuple(axis for axis in AXES if axis in axes)
