"""Reading a case: its channels on one grid, its brain, and what is needed to lay results over it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.mri.volumes import find_brain, shown_part
from diffmedseg.errors import DataError
from diffmedseg.prediction.volumes.files import VolumeCase
from diffmedseg.prediction.volumes.naming import remainder
from diffmedseg.reading.dicom import Series, find_series
from diffmedseg.reading.grid import Frame
from diffmedseg.reading.names import stem
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.reading.volumes import check_same_grid, check_slices, grid_note, read_brain, read_stored
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk

_ORIENTED = "LPS"  # axes of volumes in memory
_LARGEST_BRAIN = 2.2  # litres, with its fluid: ours, above what adults have


@dataclass(frozen=True)
class Volume:
    """A case as the model's training data is read: axial slices, axes nearest to LPS.

    Attributes:
        channels: (C, D, H, W), float32, as stored.
        brain: (D, H, W): where the brain is.
        names: What each channel is, for messages.
        stored: Where the first channel's voxels lie as stored: results are laid over them.
        oriented: The same with axes nearest to LPS.
        note: What the user should know of how it was read; often empty.
        series: The DICOM series that the first channel is; None where it is a file.
    """

    channels: NDArray[np.float32]
    brain: NDArray[np.bool_]
    names: list[str]
    stored: Frame
    oriented: Frame
    note: str
    series: Series | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of slices, rows and columns, in mm."""
        column, row, depth = map(float, self.oriented.grid.spacing)
        return depth, row, column

    def lay_over(self, values: NDArray[np.generic]) -> "sitk.Image":
        """Make an image of (D, H, W) that overlays the stored file: the same size, spacing, origin and direction."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(values)
        self.oriented.grid.give(image)
        direction = self.stored.grid.direction.ravel().tolist()
        axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
        turned = image if axes == _ORIENTED else sitk.DICOMOrient(image, axes)  # which copies
        self.stored.grid.give(turned)  # what turning there and back has rounded
        return turned


def read_case(case: VolumeCase, slice_input: SliceInput | None = None) -> Volume:
    """Read a case.

    Args:
        case: The case.
        slice_input: How the model takes slices: where every channel has a range, the whole volume is segmented.

    Raises:
        DataError: If files are missing, damaged or do not lie on one grid, or the slices are lines.
    """
    import SimpleITK as sitk

    paths = case.channels()
    series = {path: find_series(path) for path in paths if path.is_dir()}
    first = series.get(paths[0])
    images = _read_channels(case, paths, series)
    paths = paths if len(paths) == len(images) else paths * len(images)
    stored = Frame.of(images[0])
    for number in range(len(images)):  # volumes may be large: one at a time is there twice
        images[number] = sitk.DICOMOrient(images[number], _ORIENTED)
    oriented, marked = _check_images(case, images, paths)
    channels = np.empty((len(images), *oriented.size[::-1]), np.float32)
    for channel in channels:
        image = images.pop(0)  # a view does not keep its image
        channel[:] = sitk.GetArrayViewFromImage(image)
        del image
    brain = find_brain(channels) if marked is None else marked
    ranges = {} if slice_input is None else slice_input.ranges_of(case.naming.channels)
    brain = shown_part(channels, brain, ranges)
    names = [f"{path.name}: {channel}" for path, channel in zip(paths, case.naming.channels, strict=True)]
    note = "; ".join(_notes(paths, None if len(ranges) == len(channels) else brain, oriented))
    return Volume(channels, brain, names, stored, oriented, note, first)


def _check_images(
    case: VolumeCase, images: Sequence["sitk.Image"], paths: Sequence[Path]
) -> tuple[Frame, NDArray[np.bool_] | None]:
    """Return where the voxels of all channels lie, and the brain mask where there is a file of it."""
    for image, path in zip(images[1:], paths[1:], strict=True):
        check_same_grid(image, images[0], path, paths[0])
    check_slices(images[0], paths[0])
    mask = case.brain_mask()
    return Frame.of(images[0]), None if mask is None else read_brain(mask, images[0], paths[0])


def _read_channels(case: VolumeCase, paths: list[Path], series: Mapping[Path, Series]) -> list["sitk.Image"]:
    patients = {one.patient: path.name for path, one in series.items()}  # whose ids are nobody's business
    if len(patients) > 1:
        raise DataError(f"its series are of {len(patients)} patients, such as {first_names(list(patients.values()))}")
    stored = [volume for path in paths for volume in ([series[path].read()] if path in series else read_stored(path))]
    order = case.naming.volumes
    if order is None and len(stored) == len(paths):
        return stored
    if order is None:
        raise DataError("a file holds several volumes: say by --volumes what they are, in their order")
    if len(stored) != len(order):
        raise DataError(f"it holds {len(stored)} volumes; --volumes names {len(order)}")
    return [stored[order.index(channel)] for channel in case.naming.channels]


def _notes(paths: Sequence[Path], brain: NDArray[np.bool_] | None, frame: Frame) -> Iterator[str]:
    """Say what may be wrong, but need not; ``brain`` is None where the model looks for none."""
    litres = 0.0 if brain is None else float(brain.sum() * np.prod(frame.grid.spacing) / 1e6)
    if brain is not None and (brain.all() or litres > _LARGEST_BRAIN):
        yield (
            f"what is not background has {litres:.1f} litres and is taken for the brain: is the skull stripped where "
            "it was in training? Else strip it, or give --brain_mask"
        )
    if len({remainder(stem(path)) for path in paths if path.is_file()}) > 1:
        files = first_names([path.name for path in paths], 6)
        yield f"the names of {files} differ in more than the modality: are they of one patient?"
    by_note: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        if path.is_file() and (note := grid_note(path)):
            by_note.setdefault(note, []).append(path.name)
    for note, names in by_note.items():
        yield f"{first_names(names)}: {note}"
