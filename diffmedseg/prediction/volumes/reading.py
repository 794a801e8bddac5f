"""Reading a case: its channels on one grid, its brain, and the positions of its voxels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.mri.volumes import find_brain, shown_part
from diffmedseg.errors import DataError
from diffmedseg.prediction.volumes.compact import compact
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

AnyType = TypeVar("AnyType", bound=np.generic)

_ORIENTED = "LPS"  # directions of the axes in memory
_AXES = {"R": 2, "L": 2, "A": 1, "P": 1, "I": 0, "S": 0}  # axis of (D, H, W), by the direction of a file's axis
_LARGEST_BRAIN = 2.2  # litres, with fluid: our choice, above the brains of adults


@dataclass(frozen=True)
class Volume:
    """A case in the form of the model's training data: axial slices, axes nearest to LPS.

    Attributes:
        channels: C arrays (D, H, W) with the stored values: int16 if all values of a channel are integers in its range,
            else float32.
        brain: (D, H, W), bool: the voxels of the brain; all voxels if every channel has a range.
        names: File and channel of each array, for messages.
        stored: Number and positions of the first channel's voxels in its file. Results are written on this grid.
        oriented: Number and positions of these voxels with axes nearest to LPS.
        note: Note for the user about possible errors in the case; often empty.
        series: The DICOM series of the first channel; None if the channel is a file.
    """

    channels: Sequence[NDArray[Any]]
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

    def as_stored(self, values: NDArray[AnyType]) -> NDArray[AnyType]:
        """Return a view of (D, H, W) along the axes of the stored file. The last axis of the file comes first."""
        import SimpleITK as sitk

        direction = self.stored.grid.direction.ravel().tolist()
        axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)[::-1]
        turned = values.transpose([_AXES[axis] for axis in axes])
        return turned[tuple(slice(None, None, 1 if axis in _ORIENTED else -1) for axis in axes)]


@dataclass(frozen=True)
class _Scan:
    """A channel of a case.

    Attributes:
        values: (D, H, W), axes nearest to LPS; see :attr:`Volume.channels`.
        stored: Number and positions of the voxels in the file.
        oriented: Number and positions of the voxels with axes nearest to LPS.
    """

    values: NDArray[Any]
    stored: Frame
    oriented: Frame

    @classmethod
    def of(cls, image: "sitk.Image") -> "_Scan":
        import SimpleITK as sitk

        stored, turned = Frame.of(image), sitk.DICOMOrient(image, _ORIENTED)
        return cls(compact(sitk.GetArrayViewFromImage(turned)), stored, Frame.of(turned))


def read_case(case: VolumeCase, slice_input: SliceInput | None = None) -> Volume:
    """Read a case.

    Args:
        case: The case.
        slice_input: Conversion of slices to images of the model. If every channel has a range, the whole volume is
            segmented.

    Raises:
        DataError: If files are missing, damaged or on different grids, series are of different patients, volumes do not
            fit the model's channels, or axial slices are lines.
    """
    paths = case.channels()
    series = {path: find_series(path) for path in paths if path.is_dir()}
    scans = _read_channels(case, paths, series)
    first, channels = scans[0], [scan.values for scan in scans]
    files = paths if len(paths) == len(scans) else paths * len(scans)
    for scan, path in zip(scans[1:], files[1:], strict=True):
        check_same_grid(scan.oriented, first.oriented, path, files[0])
    check_slices(first.oriented, files[0])
    mask = case.brain_mask()
    brain = find_brain(channels) if mask is None else read_brain(mask, first.oriented, files[0])
    ranges = {} if slice_input is None else slice_input.ranges_of(case.naming.channels)
    brain = shown_part(channels, brain, ranges)
    names = [f"{path.name}: {channel}" for path, channel in zip(files, case.naming.channels, strict=True)]
    note = "; ".join(_notes(files, None if len(ranges) == len(channels) else brain, first.oriented))
    return Volume(channels, brain, names, first.stored, first.oriented, note, series.get(paths[0]))


def _read_channels(case: VolumeCase, paths: list[Path], series: Mapping[Path, Series]) -> list[_Scan]:
    """Read files and series one by one, because reading takes several times the memory of the result."""
    # Messages name folders, because ids of patients are private.
    patients = {channel_series.patient: path.name for path, channel_series in series.items()}
    if len(patients) > 1:
        raise DataError(
            f"its series are of {len(patients)} patients, such as {first_names(list(patients.values()))}: separate them"
        )
    stored: list[_Scan] = []
    for path in paths:
        stored += map(_Scan.of, [series[path].read()] if path in series else read_stored(path))
    order = case.naming.volumes
    if order is None and len(stored) == len(paths):
        return stored
    if order is None:
        raise DataError("a file holds several volumes: name them in order by --volumes")
    if len(stored) != len(order):
        raise DataError(
            f"it holds {len(stored)} volumes; --volumes names {len(order)}. Name each volume once, in order"
        )
    return [stored[order.index(channel)] for channel in case.naming.channels]


def _notes(paths: Sequence[Path], brain: NDArray[np.bool_] | None, frame: Frame) -> Iterator[str]:
    """Yield notes about findings that may be harmless. ``brain`` is None if the model uses no brain mask."""
    litres = 0.0 if brain is None else float(brain.sum() * np.prod(frame.grid.spacing) / 1e6)
    if brain is not None and (brain.all() or litres > _LARGEST_BRAIN):
        yield (
            f"everything that is not background, {litres:.1f} litres, is taken for the brain. If the skull is not "
            "stripped as it was in training, strip it, or give --brain_mask"
        )
    if len({remainder(stem(path)) for path in paths if path.is_file()}) > 1:
        files = first_names([path.name for path in paths], 6)
        yield f"the names of {files} differ in more than the modality: check that they are of one patient"
    by_note: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        if path.is_file() and (note := grid_note(path)):
            by_note.setdefault(note, []).append(path.name)
    for note, names in by_note.items():
        yield f"{first_names(names)}: {note}"
