"""Read MetaImage (.mha) and NRRD (.nrrd) files by SimpleITK, and refuse files that it would read wrongly."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.grid import Grid, check_straight
from diffmedseg.reading.itk_headers import check_header, check_voxels, is_nrrd
from diffmedseg.reading.limits import check_size, count_bad

if TYPE_CHECKING:
    import SimpleITK as sitk


def read_itk(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """Read a file.

    Returns:
        The values of all volumes, (N, D, H, W), and their positions.

    Raises:
        DataError: If the file is damaged, has no voxels, several values per voxel or no size of voxels, does not have
            three or four dimensions, or holds NaN; names the file.
    """
    import SimpleITK as sitk

    header = check_header(path)
    size, values, width = _read_size(path)
    if not size or min(size) < 1:
        raise DataError(f"{path} has the size {size}: it holds no voxel. Download it again")
    check_size(path, math.prod(size) * values, math.prod(size) * values)
    if values != 1 and not header.listed:
        raise DataError(
            f"{path} has {values} values per voxel, as a colour picture; expected one. Convert it to grey values"
        )
    if len(size) not in (3, 4) or (len(size) == 4 and values > 1):
        raise DataError(f"{path} has {len(size)} dimensions {size}; a volume has three, several volumes have four")
    check_voxels(path, header, math.prod(size) * values, width)
    try:
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat32 if values > 1 else sitk.sitkFloat32, _reader(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    array = sitk.GetArrayFromImage(image)
    volumes = np.moveaxis(array, -1, 0) if values > 1 else array.reshape(-1, *array.shape[-3:])
    count_bad(path, volumes)
    return volumes, _grid(image, path, header.note)


def count_itk(path: Path) -> int:
    """Count the volumes in a file, by its header.

    Raises:
        DataError: If the file cannot be read.
    """
    check_header(path)
    size, values, _ = _read_size(path)
    return math.prod(size[3:]) * values


def count_voxels(path: Path) -> int:
    """Count the voxels of all volumes in a file, by its header.

    Raises:
        DataError: If the file cannot be read.
    """
    check_header(path)
    size, values, _ = _read_size(path)
    return math.prod(size) * values


def _reader(path: Path) -> str:
    """Return the name of ITK's reader: ITK would not find it from a suffix in capitals."""
    return "NrrdImageIO" if is_nrrd(path) else "MetaImageIO"


def _read_size(path: Path) -> tuple[tuple[int, ...], int, int]:
    """Return the size, the values per voxel and the bytes per value."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK would also print the error that is raised here
    header = sitk.ImageFileReader()
    header.SetImageIO(_reader(path))
    header.SetFileName(str(path))
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    width = sitk.Image([1, 1], header.GetPixelID()).GetSizeOfPixelComponent()
    return header.GetSize(), header.GetNumberOfComponents(), width


def _unreadable(path: Path, error: RuntimeError) -> DataError:
    reason = str(error).strip().splitlines()[-1].strip()
    return DataError(f"{path} cannot be read ({reason}): download it again")


def itk_note(path: Path) -> str:
    """Return a note if the positions of a file's voxels are ambiguous; else ""."""
    return check_header(path).note


def _grid(image: "sitk.Image", path: Path, note: str) -> Grid:
    """Return the positions of the first volume, without a fourth axis."""
    count = image.GetDimension()
    spacing, origin = np.array(image.GetSpacing()[:3]), np.array(image.GetOrigin()[:3])
    direction = np.reshape(image.GetDirection(), (count, count))[:3, :3]
    if not all(np.isfinite(part).all() for part in (spacing, origin, direction)):
        raise DataError(
            f"{path} has NaN in the spacing, origin or direction of its header: correct it, or convert it again"
        )
    check_straight(path, direction)
    return Grid(spacing, origin, direction, note)
