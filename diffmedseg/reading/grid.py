"""Positions of a volume's voxels in the patient's coordinates."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError

if TYPE_CHECKING:
    import SimpleITK as sitk

UNSAID = "its header has no orientation: left and right may be swapped"
_STRAIGHT = 1e-3  # cosine between two axes


@dataclass(frozen=True)
class Grid:
    """Positions of voxels, in SimpleITK's coordinates: axes point left, back and up (LPS).

    Attributes:
        spacing: Distance of neighbours along x, y and z, in mm.
        origin: Position of the first voxel, in mm.
        direction: (3, 3): unit vectors along the axes, in columns.
        note: What is ambiguous in the header, for people; often empty.
    """

    spacing: NDArray[np.float64]
    origin: NDArray[np.float64]
    direction: NDArray[np.float64]
    note: str

    @classmethod
    def of(cls, image: "sitk.Image") -> "Grid":
        """Return the grid of an image."""
        direction = np.array(image.GetDirection()).reshape(3, 3)
        return cls(np.array(image.GetSpacing()), np.array(image.GetOrigin()), direction, "")

    def give(self, image: "sitk.Image") -> None:
        """Set the spacing, origin and direction of an image to this grid's."""
        image.SetSpacing(self.spacing.tolist())
        image.SetOrigin(self.origin.tolist())
        image.SetDirection(self.direction.ravel().tolist())


@dataclass(frozen=True)
class Frame:
    """Number and positions of a volume's voxels, without their values.

    Attributes:
        size: Voxels along x, y and z.
        grid: Positions of the voxels.
    """

    size: tuple[int, int, int]
    grid: Grid

    @classmethod
    def of(cls, image: "sitk.Image") -> "Frame":
        """Return the frame of an image."""
        return cls(image.GetSize(), Grid.of(image))


def check_straight(path: Path, direction: NDArray[np.float64]) -> None:
    """Refuse axes that are not at right angles, or not of length 1.

    Raises:
        DataError: Names the file.
    """
    if not np.allclose(direction.T @ direction, np.eye(3), rtol=0, atol=_STRAIGHT):
        raise DataError(f"{path} has axes that are not at right angles (sheared): resample it to a straight grid")
