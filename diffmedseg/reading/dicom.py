"""Read a folder of DICOM slices as a volume."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.dicom_elements import check_elements
from diffmedseg.reading.grid import Grid, check_straight
from diffmedseg.reading.names import data_files
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk

_MAGIC_AT, _MAGIC = 128, b"DICM"  # DICOM PS3.10, section 7.1
_OFF_PLACE = 0.02  # of the distance of slices, or in mm if that is more; our choice, since positions are rounded
_FRAMES, _PATIENT, _LEVELS, _DESCRIPTION = "0028|0008", "0010|0020", "0028|0004", "0008|103e"
_GEOMETRY = {
    "0020|0032": ("ImagePositionPatient", 3),
    "0020|0037": ("ImageOrientationPatient", 6),
    "0028|0030": ("PixelSpacing", 2),
}
_PLACE, _AXES, _SPACING = _GEOMETRY
_DEPTH = ("0018|0088", "0018|0050")  # SpacingBetweenSlices, SliceThickness
_RESCALING = {"0028|1053": "RescaleSlope", "0028|1052": "RescaleIntercept"}
_FIRST_GROUPS, _NEXT_GROUPS = (0x0002, 0x0008), (0x0002, 0x0008, 0x0009, 0x0010)
_SHORT = {b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"PN", b"SH", b"ST", b"TM", b"UI", b"UL", b"US"}


def is_dicom_file(path: Path) -> bool:
    """Return whether a file is DICOM: it has DICOM's magic bytes, or starts with DICOM elements without a preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(512)
    return start[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC or _is_bare(start)


def _is_bare(start: bytes) -> bool:
    """Return whether bytes are two elements of DICOM, little-endian, as at the start of a file without preamble."""
    group, element, length = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2, 6))
    if group not in _FIRST_GROUPS or element > 0xFF:
        return False
    if start[4:6] not in _SHORT:  # implicit VR
        length = int.from_bytes(start[4:8], "little")
    return length % 2 == 0 and int.from_bytes(start[8 + length : 10 + length], "little") in _NEXT_GROUPS


def _dicom_files(folder: Path) -> list[Path]:
    """List the DICOM files directly in a folder, without the index of a CD (DICOMDIR)."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [path for path in paths if path.name.upper() != "DICOMDIR" and is_dicom_file(path)]


def _lost_slices(folder: Path, files: list[Path]) -> list[Path]:
    """List other files in a folder that may be slices: empty files, DICOM files and files with a slice's suffix."""
    names, endings = {path.name for path in files}, {path.suffix for path in files} - {""}
    other_files = [path for path in data_files(folder) if path.name not in names and path.name.upper() != "DICOMDIR"]
    return [path for path in other_files if path.suffix in endings or not path.stat().st_size or is_dicom_file(path)]


def is_dicom(folder: Path) -> bool:
    """Return whether there are DICOM files directly in a folder."""
    return bool(_dicom_files(folder))


@dataclass(frozen=True)
class Series:
    """The only series in a folder.

    Attributes:
        files: Files of the slices, in the order of their positions.
        patient: Id of the patient.
        grid: Position and spacing of the voxels.
    """

    files: list[Path]
    patient: str
    grid: Grid

    def read(self) -> "sitk.Image":
        """Read the series as a volume, float32, with the rescaling of its header applied.

        Raises:
            DataError: If the series is damaged.
        """
        import SimpleITK as sitk

        try:
            if len(self.files) == 1:
                image = sitk.ReadImage(str(self.files[0]), sitk.sitkFloat32)
            else:
                reader = sitk.ImageSeriesReader()
                reader.SetFileNames([str(path) for path in self.files])
                reader.SetOutputPixelType(sitk.sitkFloat32)
                image = reader.Execute()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise DataError(f"{self.files[0].parent} cannot be read ({reason}): export it again") from error
        self.grid.give(image)
        return image


def find_series(folder: Path) -> Series:
    """Find the only series in a folder, and check that it is a volume.

    Raises:
        DataError: If there is no series or more than one, if patients are mixed, if slices are missing, doubled,
            different in size or damaged, or if slices have no position.
    """
    series = _files_by_series(folder)
    if len(series) != 1:
        firsts = first_names([files[0].name for files in series])
        content = f"{len(series)} DICOM series (of {firsts})" if series else "no DICOM series"
        raise DataError(f"{folder} holds {content}; expected one: put each series into a folder of its own")
    [files] = series
    if lost := [path.name for path in _lost_slices(folder, files)]:
        raise DataError(
            f"{folder} has files that are damaged, or are not slices: {first_names(lost)}. Remove files that are not "
            "slices, or export the series again"
        )
    headers = [_header(path) for path in files]
    patients = {_text(header, _PATIENT): path.name for header, path in zip(headers, files, strict=True)}
    if len(patients) > 1:  # the message does not show the patients' ids
        slices = first_names(list(patients.values()))
        raise DataError(f"{folder} holds slices of {len(patients)} patients, such as {slices}: separate them")
    return Series(files, next(iter(patients)), _find_grid(folder, files, headers))


def list_series(folder: Path) -> list[tuple[str, list[Path]]]:
    """Return the description, which may be empty, and the files of each series directly in a folder.

    Raises:
        DataError: If a file is damaged.
    """
    if not is_dicom(folder):
        return []
    return [(_text(_information(files[0]), _DESCRIPTION), files) for files in _files_by_series(folder)]


def count_pixels(path: Path) -> int:
    """Count the pixels of all frames in a file, by its header.

    Raises:
        DataError: If the file is damaged.
    """
    check_elements(path)
    return math.prod(_information(path).GetSize())


def _files_by_series(folder: Path) -> list[list[Path]]:
    """Return the files of each series in a folder, in the order of their positions."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    for path in _dicom_files(folder):
        check_elements(path)
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        names_of = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series]
    except RuntimeError as error:
        raise DataError(f"{folder} has a file that is damaged, or is not a slice. Export it again") from error
    return [[Path(name) for name in names] for names in names_of]


def _text(header: "sitk.ImageFileReader", tag: str) -> str:
    """Return the text of a tag without its padding, which differs between programs; empty without the tag."""
    value = header.GetMetaData(tag) if header.HasMetaDataKey(tag) else ""
    stored = value.encode("utf-8", "surrogateescape")
    try:
        value = stored.decode()
    except UnicodeDecodeError:  # the file does not name its character set
        value = stored.decode("latin-1")
    return value.strip(" \0")


def _numbers(header: "sitk.ImageFileReader", tag: str) -> NDArray[np.float64]:
    """Return the numbers of a tag; an empty array if its text is not numbers."""
    try:
        values = np.array([float(number) for number in _text(header, tag).split("\\")])
    except ValueError:
        return np.zeros(0)
    return values if np.isfinite(values).all() else np.zeros(0)


def _information(path: Path) -> "sitk.ImageFileReader":
    """Read the header of a file."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        with path.open("rb") as file:
            bare = _is_bare(file.read(512))
        reason = "it lacks the preamble of a DICOM file" if bare else "it is damaged"
        raise DataError(f"{path} cannot be read: {reason}. Export it again") from error
    return reader


def _header(path: Path) -> "sitk.ImageFileReader":
    """Read the header of a slice. Refuse colour pictures, inverted grey values, several frames and no position."""
    reader = _information(path)
    if reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path} is a colour picture, such as a screenshot: choose another series")
    if (levels := _text(reader, _LEVELS)) not in ("MONOCHROME2", ""):
        what = "shows low values bright" if levels == "MONOCHROME1" else "has no grey values"
        raise DataError(f"{path} {what} (PhotometricInterpretation {levels}): choose another series")
    frames = _text(reader, _FRAMES)
    if frames not in ("", "1"):
        # The frames may be times or echoes, in any order.
        raise DataError(f"{path} holds {frames} frames: convert it to NIfTI, as by dcm2niix")
    missing = [name for tag, (name, _) in _GEOMETRY.items() if not reader.HasMetaDataKey(tag)]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}; its position is unknown. Export it again")
    for tag, (name, length) in _GEOMETRY.items():
        numbers = _numbers(reader, tag)
        if len(numbers) != length or (tag == _SPACING and min(numbers) <= 0):
            raise DataError(f"{path} has the {name} {_text(reader, tag)!r}; its position is unknown. Export it again")
    for tag, name in _RESCALING.items():  # GDCM does not rescale if it cannot read these tags
        numbers = _numbers(reader, tag)
        if _text(reader, tag) and (len(numbers) != 1 or (name == "RescaleSlope" and not numbers[0])):
            raise DataError(f"{path} has the {name} {_text(reader, tag)!r}: its values are unknown. Export it again")
    return reader


def _find_grid(folder: Path, files: list[Path], headers: list["sitk.ImageFileReader"]) -> Grid:
    """Return the grid of a series. Refuse slices of different sizes or directions, and uneven positions."""
    axes, spacings = (np.array([_numbers(header, tag) for header in headers]) for tag in (_AXES, _SPACING))
    places = np.array([_numbers(header, _PLACE) for header in headers])
    kinds = {
        (header.GetSize(), *np.round(axis, 3), *np.round(spacing, 4))
        for header, axis, spacing in zip(headers, axes, spacings, strict=True)
    }
    if len(kinds) > 1:
        raise DataError(f"{folder} has slices of {len(kinds)} sizes or directions: put each into a folder of its own")
    across, down = axes[0].reshape(2, 3)
    direction = np.column_stack([across, down, np.cross(across, down)])
    check_straight(files[0], direction)
    step = _depth(files[0], headers[0]) if len(headers) == 1 else _check_places(folder, places, direction[:, 2])
    direction[:, 2] *= np.sign(step)
    return Grid(np.array([*spacings[0][::-1], abs(step)]), places[0], direction, "")


def _depth(path: Path, header: "sitk.ImageFileReader") -> float:
    """Return the thickness of a single slice, in mm."""
    for tag in _DEPTH:
        numbers = _numbers(header, tag)
        if len(numbers) == 1 and numbers[0] > 0:
            return float(numbers[0])
    raise DataError(f"{path} is a single slice without a thickness (SliceThickness). Export it again")


def _check_places(folder: Path, places: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """Return the distance of slices, in mm. Refuse uneven distances: ITK would read them as even."""
    gaps = np.diff(places @ normal)
    if abs(gaps).min() < 1e-3:
        raise DataError(f"{folder} has several slices at one position: put each time or echo into a folder of its own")
    step = float(np.median(gaps))
    if abs(gaps - step).max() > _OFF_PLACE * max(abs(step), 1):
        raise DataError(
            f"{folder} has slices {abs(gaps).min():.2f} to {abs(gaps).max():.2f} mm apart: some are missing. Export it "
            "again, or convert it to NIfTI"
        )
    sideways = places - places[0] - np.outer((places - places[0]) @ normal, normal)
    if np.linalg.norm(sideways, axis=1).max() > _OFF_PLACE * max(abs(step), 1):
        raise DataError(f"{folder} has slices that are shifted sideways (a tilted gantry): convert it to NIfTI")
    return step
