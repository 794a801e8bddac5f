"""Reading a case: its channels on one grid, its brain, and what is needed to lay results over it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.mri.volumes import check_same_grid, find_brain, read_stored
from diffmedseg.data.store import DataError
from diffmedseg.prediction.volumes.dicom import read_series
from diffmedseg.prediction.volumes.files import VolumeCase

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class Volume:
    """A case as the model's training data is read: axial slices, axes nearest to LPS.

    Attributes:
        channels: (C, D, H, W), float32, as stored.
        brain: (D, H, W): where the brain is.
        names: What each channel is, for messages.
        stored: The grid of the first channel's file: results are laid over it.
        note: What the user should know of how it was read; often empty.
    """

    channels: NDArray[np.float32]
    brain: NDArray[np.bool_]
    names: list[str]
    stored: "sitk.Image"
    note: str

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of slices, rows and columns, in mm."""
        import SimpleITK as sitk

        column, row, depth = sitk.DICOMOrient(self.stored, "LPS").GetSpacing()
        return depth, row, column

    def lay_over(self, values: NDArray[np.generic]) -> "sitk.Image":
        """Make an image of (D, H, W) that overlays the stored file: the same size, spacing, origin and direction."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(values)
        image.CopyInformation(sitk.DICOMOrient(self.stored, "LPS"))
        axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.stored.GetDirection())
        turned = sitk.DICOMOrient(image, axes)
        turned.CopyInformation(self.stored)  # what turning there and back has rounded
        return turned


def read_case(case: VolumeCase) -> Volume:
    """Read a case.

    Raises:
        DataError: If files are missing, damaged or do not lie on one grid, or the slices are lines.
    """
    import SimpleITK as sitk

    paths = case.channels()
    stored = _read(paths[0])
    if case.naming.volumes is not None:
        if len(stored) != len(case.naming.volumes):
            raise DataError(f"it holds {len(stored)} volumes; --volumes names {len(case.naming.volumes)}")
        stored = [stored[case.naming.volumes.index(channel)] for channel in case.naming.channels]
        paths = paths * len(stored)
    else:
        stored += [volume for path in paths[1:] for volume in _read(path)]
        if len(stored) != len(paths):
            raise DataError("a file holds several volumes: say by --volumes what they are, in their order")
    volumes = [sitk.DICOMOrient(volume, "LPS") for volume in stored]
    for volume, path in zip(volumes[1:], paths[1:], strict=True):
        check_same_grid(volume, volumes[0], path, paths[0])
    width, height, _ = volumes[0].GetSize()
    if min(width, height) == 1:
        raise DataError(f"its axial slices are {height} x {width} voxels: a single slice has to be an axial one")
    channels = np.stack([sitk.GetArrayFromImage(volume) for volume in volumes])
    names = [f"{path.name}: {channel}" for path, channel in zip(paths, case.naming.channels, strict=True)]
    if (mask_path := case.brain_mask()) is not None:
        mask = sitk.DICOMOrient(_read(mask_path)[0], "LPS")
        check_same_grid(mask, volumes[0], mask_path, paths[0])
        return Volume(channels, sitk.GetArrayFromImage(mask) > 0, names, stored[0], "")
    brain = find_brain(channels)
    note = ""
    if brain.all():
        note = "no background around the brain: is the skull stripped, as in training? Else give --brain_mask"
    return Volume(channels, brain, names, stored[0], note)


def _read(path: Path) -> list["sitk.Image"]:
    return [read_series(path)] if path.is_dir() else read_stored(path)
