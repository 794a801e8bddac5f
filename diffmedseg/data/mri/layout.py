"""The files of a case, and their content."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.configurable import Configurable
from diffmedseg.data.mri.volumes import find_brain
from diffmedseg.reading.grid import Frame, Grid
from diffmedseg.reading.volumes import check_same_grid, check_slices, grid_note, read_brain, read_volume, to_labels

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class Case:
    """The files of one case.

    Attributes:
        id: Name of the case.
        patient: The patient. All cases of a patient are in the same split.
        images: Files of the image, in the order of the modalities.
        segmentation: File or, for slices, files of the segmentation.
        brain: File of a brain mask; None without one.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    segmentation: tuple[Path, ...]
    brain: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files."""
        return self.images + self.segmentation + (() if self.brain is None else (self.brain,))


@dataclass(frozen=True)
class RawCase:
    """The content of a case's files.

    Attributes:
        channels: (C, D, H, W), float32, as stored.
        brain: (D, H, W), mask of the brain.
        labels: (D, H, W), uint8, values of the label scheme.
        spacing: Distance of slices, rows and columns, in mm.
        notes: Ambiguities in the position of its files, for people; often empty.
        grid: Position of its voxels; None if the files do not state it.
    """

    channels: NDArray[np.float32]
    brain: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    notes: tuple[str, ...] = ()
    grid: Grid | None = None


class Layout(Configurable, ABC):
    """Find and read the cases of a data set.

    Attributes:
        modalities: Names of the channels, in order.
    """

    modalities: tuple[str, ...]

    @abstractmethod
    def find(self, root: Path) -> list[Case]:
        """Find the cases with a segmentation, in the order of their ids.

        Raises:
            DataError: If there is none, or files of a case are missing. The message says what was found, and which data
                set fits.
        """

    def masks_alone(self, root: Path) -> list[Path]:
        """Return the masks without an image. A layout of one folder per case has none."""
        return []

    @abstractmethod
    def read(self, case: Case, allowed: set[int]) -> RawCase:
        """Read a case.

        Raises:
            DataError: If a file is damaged, or does not fit the other files or the label scheme; the message names the
                file.
        """


def assemble(
    volumes: Sequence["sitk.Image"],
    case: Case,
    allowed: set[int],
    labels_of: Callable[["sitk.Image", set[int], Path], NDArray[np.uint8]] = to_labels,
) -> RawCase:
    """Combine the volumes of a case, one per modality, with its segmentation and brain.

    Args:
        volumes: The volumes, with axes nearest to LPS.
        case: Files of the case.
        allowed: The values of the label scheme.
        labels_of: Function that returns the labels of a segmentation, from the segmentation, ``allowed`` and its file.

    Raises:
        DataError: If the volumes have different voxels, or a label is not in the scheme.
    """
    import SimpleITK as sitk

    paths = case.images if len(case.images) == len(volumes) else case.images * len(volumes)
    true = case.segmentation[0]
    segmentation = read_volume(true)
    frame = Frame.of(segmentation)
    for volume, path in zip(volumes, paths, strict=True):
        check_same_grid(Frame.of(volume), frame, path, true)
    check_slices(frame, true)
    channels = np.stack([sitk.GetArrayFromImage(volume) for volume in volumes])
    brain = find_brain(channels) if case.brain is None else read_brain(case.brain, frame, true)
    labels = labels_of(segmentation, allowed, true)
    column, row, depth = segmentation.GetSpacing()
    notes = tuple(f"{path.name}: {note}" for path in case.files if (note := grid_note(path)))
    return RawCase(channels, brain, labels, (depth, row, column), notes, frame.grid)
