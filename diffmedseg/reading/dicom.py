"""Reading a folder of DICOM slices as a volume."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffmedseg.errors import DataError
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk

_MAGIC_AT, _MAGIC = 128, b"DICM"  # DICOM PS3.10, section 7.1
_OFF_PLACE = 0.02  # of the distance of two slices, or mm where that is more: positions are rounded; ours
_ROWS, _FRAMES, _PATIENT = "0028|0010", "0028|0008", "0010|0020"
_GEOMETRY = {"0020|0032": "ImagePositionPatient", "0020|0037": "ImageOrientationPatient", "0028|0030": "PixelSpacing"}


def is_dicom_file(path: Path) -> bool:
    """Whether a file says that it is DICOM."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


def _dicom_files(folder: Path) -> list[Path]:
    """List the DICOM files directly in a folder, but for the index of a CD."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [path for path in paths if path.name.upper() != "DICOMDIR" and is_dicom_file(path)]


def is_dicom(folder: Path) -> bool:
    """Whether there are DICOM files directly in a folder."""
    return bool(_dicom_files(folder))


@dataclass(frozen=True)
class Series:
    """The one series in a folder.

    Attributes:
        files: Its files, in the order of their places.
        patient: Id of the patient.
    """

    files: list[Path]
    patient: str

    def read(self) -> "sitk.Image":
        """Read it as a volume, float32, in the units that its rescaling gives.

        Raises:
            DataError: If it is damaged.
        """
        import SimpleITK as sitk

        try:
            if len(self.files) == 1:
                return sitk.ReadImage(str(self.files[0]), sitk.sitkFloat32)
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames([str(path) for path in self.files])
            reader.SetOutputPixelType(sitk.sitkFloat32)
            return reader.Execute()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise DataError(f"{self.files[0].parent} cannot be read ({reason}): export it again") from error


def find_series(folder: Path) -> Series:
    """Find the one series in a folder, and check that it is a volume.

    Raises:
        DataError: If there is none or several, patients are mixed, slices are missing, doubled, unlike or damaged, or
            it does not say where they lie.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = f"{len(series)} DICOM series ({first_names(list(series))})" if series else "no DICOM series"
        raise DataError(f"{folder} holds {found}; expected one: put each series into a folder of its own")
    files = [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])]
    names = {path.name for path in files}
    lost = [path.name for path in _dicom_files(folder) if path.name not in names]
    if lost:
        raise DataError(f"{folder} has files that are damaged, or no slices: {first_names(lost)}. Export it again")
    headers = [_header(path) for path in files]
    patients = {header.GetMetaData(_PATIENT) if header.HasMetaDataKey(_PATIENT) else "" for header in headers}
    if len(patients) > 1:
        raise DataError(f"{folder} holds slices of {len(patients)} patients: {first_names(patients)}")
    _check_places(folder, headers)
    return Series(files, patients.pop())


def _header(path: Path) -> "sitk.ImageFileReader":
    """Read the header of a slice, and refuse what no slice is."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(f"{path} cannot be read: it is damaged. Export it again") from error
    if reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path} is a colour picture, such as a screenshot: choose another series")
    if reader.HasMetaDataKey(_FRAMES) and int(reader.GetMetaData(_FRAMES)) > 1:
        # Its frames may be times or echoes, and in any order.
        raise DataError(
            f"{path} holds {reader.GetMetaData(_FRAMES).strip()} frames: convert it to NIfTI, as by dcm2niix"
        )
    missing = [name for tag, name in _GEOMETRY.items() if not reader.HasMetaDataKey(tag)]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}: it does not say where it lies. Export it again")
    return reader


def _check_places(folder: Path, headers: list["sitk.ImageFileReader"]) -> None:
    """Refuse slices that do not lie one behind the other at even distances: the reader would take them for even."""
    kinds = {
        (header.GetSize(), tuple(np.round(header.GetDirection(), 3)), tuple(np.round(header.GetSpacing()[:2], 4)))
        for header in headers
    }
    if len(kinds) > 1:
        raise DataError(f"{folder} has slices of {len(kinds)} sizes or directions: put each into a folder of its own")
    if len(headers) == 1:
        return
    origins = np.array([header.GetOrigin() for header in headers])
    normal = np.reshape(headers[0].GetDirection(), (3, 3))[:, 2]
    gaps = np.diff(origins @ normal)
    if abs(gaps).min() < 1e-3:
        raise DataError(f"{folder} has several slices at one place: give each time or echo a folder of its own")
    step = float(np.median(gaps))
    if abs(gaps - step).max() > _OFF_PLACE * max(abs(step), 1):
        raise DataError(
            f"{folder} has slices {abs(gaps).min():.2f} to {abs(gaps).max():.2f} mm apart: some are missing. Export it "
            "again, or convert it to NIfTI"
        )
    sideways = origins - origins[0] - np.outer((origins - origins[0]) @ normal, normal)
    if np.linalg.norm(sideways, axis=1).max() > _OFF_PLACE * max(abs(step), 1):
        raise DataError(f"{folder} has slices that are shifted sideways (a tilted gantry): convert it to NIfTI")
