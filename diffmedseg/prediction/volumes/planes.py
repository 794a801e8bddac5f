"""Slices of a volume along an axis, as images of a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.mri.store import shrink_slices
from diffmedseg.data.mri.volumes import NormalVolume
from diffmedseg.errors import DataError, unknown
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.reading.windows import CropWindow

AnyType = TypeVar("AnyType", bound=np.generic)

#: Number of the axis along which each kind of slices is cut. The axes (D, H, W) run from foot to head, front to back
#: and right to left.
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}
#: Kind of the slices that models of volumes learn.
LEARNED = "axial"


@dataclass(frozen=True)
class Plane:
    """Slices of a volume along one axis, and their conversion to images of the model.

    Axial slices are converted as in training. Other slices are upright, with square pixels and a margin of background.

    Attributes:
        axis: Name of the axis, out of :data:`AXES`.
        shape: Number of slices, rows and columns.
        spacing: Distance of slices, rows and columns, in mm.
        grid: Height and width of the model's grid.
        window: Window around a slice that fills the grid; None if the slice itself fills the grid.
    """

    axis: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    grid: tuple[int, int]
    window: CropWindow | None

    @classmethod
    def of(
        cls, axis: str, shape: Sequence[int], spacing: Sequence[float], grid: tuple[int, int], slice_input: SliceInput
    ) -> "Plane":
        """Return the slices of a volume.

        Args:
            axis: Name of the axis, out of :data:`AXES`.
            shape: (D, H, W) of the volume.
            spacing: Distance of neighbouring voxels along D, H and W, in mm.
            grid: Height and width of the model's grid.
            slice_input: Conversion of axial slices to images in training.
        """
        number = AXES[axis]
        order = [number, *(other for other in range(3) if other != number)]
        depth, rows, columns = (int(shape[i]) for i in order)
        between, down, across = (float(spacing[i]) for i in order)
        axis_input = slice_input if axis == LEARNED else replace(slice_input, square_pixels=True)
        window = axis_input.window((rows, columns), (down, across), grid)
        return cls(axis, (depth, rows, columns), (between, down, across), grid, window)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return self.shape[1:]

    @property
    def size_seen(self) -> tuple[int, int]:
        """Rows and columns of the window, or of the slice without a window."""
        return self.size if self.window is None else self.window.size

    def turn(self, values: NDArray[AnyType]) -> NDArray[AnyType]:
        """Return a view of (..., D, H, W) as (..., slices, rows, columns). Other slices than axial have the head up."""
        number = AXES[self.axis]
        turned = np.moveaxis(values, number - 3, -3)
        return turned if self.axis == LEARNED else turned[..., ::-1, :]

    def images(self, volume: NormalVolume) -> Tensor:
        """Return the slices of a volume on the model's grid: (slices, C, *grid), float32, in [-1, 1]."""
        return shrink_slices(volume.turned(self.turn), self.grid, self.window)


def check_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """Return axes in the order of :data:`AXES`.

    Raises:
        DataError: If there is no axis, an axis is unknown, or an axis occurs twice.
    """
    for axis in axes:
        if axis not in AXES:
            raise DataError(f"--axes: {unknown('axis', axis, list(AXES))}")
    if not axes or len(set(axes)) < len(axes):
        raise DataError(f"--axes {','.join(axes)}: name each axis once, out of {', '.join(AXES)}.")
    return tuple(axis for axis in AXES if axis in axes)
