"""Reading a folder of DICOM slices as a volume."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffmedseg.data.files import first_names
from diffmedseg.data.store import DataError

if TYPE_CHECKING:
    import SimpleITK as sitk

_MAGIC_AT, _MAGIC = 128, b"DICM"  # DICOM PS3.10, section 7.1
_LOOKED_AT = 20  # files of a folder
_UNEVEN = 0.02  # of the distance of two slices: positions are rounded; ours


def is_dicom(folder: Path) -> bool:
    """Whether there are DICOM files directly in a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for path in files[:_LOOKED_AT]:
        with path.open("rb") as file:
            if file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC:
                return True
    return False


def series_files(folder: Path) -> list[Path]:
    """Name the files of the one series in a folder, in the order of their places.

    Raises:
        DataError: If there is none, or there are several.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = f"{len(series)} DICOM series ({first_names(list(series))})" if series else "no DICOM series"
        raise DataError(f"{folder} holds {found}; expected one: put each series into a folder of its own")
    return [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])]


def read_series(folder: Path) -> "sitk.Image":
    """Read the one series in a folder as a volume, float32, in the units that its rescaling gives.

    Raises:
        DataError: If there is not just one series, slices are missing, doubled, unlike or damaged.
    """
    import SimpleITK as sitk

    files = series_files(folder)
    try:
        if len(files) > 1:
            _check_places(folder, files)
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames([str(path) for path in files])
            reader.SetOutputPixelType(sitk.sitkFloat32)
            image = reader.Execute()
        else:
            image = sitk.ReadImage(str(files[0]), sitk.sitkFloat32)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise DataError(f"{folder} cannot be read ({reason}): export it again") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise DataError(f"{folder} is no grey volume: it may be a report or a screenshot. Choose another series")
    return image


def _check_places(folder: Path, files: list[Path]) -> None:
    """Refuse slices that do not lie one behind the other at even distances, which the reader would take for even."""
    import SimpleITK as sitk

    origins, kinds = [], set()
    for path in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        origins.append(reader.GetOrigin())
        kinds.add((reader.GetSize(), tuple(np.round(reader.GetDirection(), 3))))
    if len(kinds) > 1:
        raise DataError(f"{folder} has slices of {len(kinds)} sizes or directions: put each into a folder of its own")
    normal = np.reshape(next(iter(kinds))[1], (3, 3))[:, 2]
    gaps = np.diff(np.array(origins) @ normal)
    if abs(gaps).min() < 1e-3:
        raise DataError(f"{folder} has several slices at one place: give each time or echo a folder of its own")
    if abs(gaps - np.median(gaps)).max() > _UNEVEN * abs(np.median(gaps)):
        raise DataError(
            f"{folder} has slices {abs(gaps).min():.2f} to {abs(gaps).max():.2f} mm apart: some are missing. Export it "
            "again, or convert it to NIfTI"
        )
