"""Reading volumes, by SimpleITK."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.masks import whole_labels
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk

_SAME_PLACE = 1e-3  # mm, and parts of a unit vector: headers are rounded


def read_stored(path: Path) -> list["sitk.Image"]:
    """Read a file of one volume, or of several along its fourth axis, as float32.

    Raises:
        DataError: If it is missing, damaged, not three- or four-dimensional, or holds NaN; names the file.
    """
    import SimpleITK as sitk

    if not path.is_file():
        raise DataError(f"{path} is missing: download the case again, or leave its folder out")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _check_nifti(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK would print to the terminal what is raised here anyway
    try:
        header = sitk.ImageFileReader()
        header.SetFileName(str(path))
        header.ReadImageInformation()
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        sheared = "orthonormal" in reason
        remedy = "its axes are sheared, resample it to a straight grid" if sheared else "download it again"
        raise DataError(f"{path} cannot be read ({reason}): {remedy}") from error
    if header.GetNumberOfComponents() != 1:
        raise DataError(
            f"{path} has {header.GetNumberOfComponents()} values per voxel, as a colour picture; expected one"
        )
    bad = int((~np.isfinite(sitk.GetArrayViewFromImage(image))).sum())
    if bad:
        raise DataError(f"{path} has {bad} voxels that are NaN or infinite: download it again, or set them to 0")
    size = image.GetSize()
    if len(size) not in (3, 4):
        raise DataError(f"{path} has {len(size)} dimensions {size}; a volume has three, several volumes have four")
    if len(size) == 4:
        return [sitk.Extract(image, [*size[:3], 0], [0, 0, 0, index]) for index in range(size[3])]
    return [image]


def read_volumes(path: Path) -> list["sitk.Image"]:
    """Read volumes as :func:`read_stored`, their axes swapped and flipped to be nearest to LPS."""
    import SimpleITK as sitk

    return [sitk.DICOMOrient(volume, "LPS") for volume in read_stored(path)]


def _check_nifti(path: Path) -> None:
    """Refuse what ITK's reader would hide: it fills files that are cut short with zeros, and sets NaN to 0.

    Offsets are those of the NIfTI-1 header (https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h).
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): download it again") from error
    order = next((order for order in "<>" if content[:4] == struct.pack(f"{order}i", 348)), None)
    if order is None or len(content) < 348:
        raise DataError(f"{path} has no NIfTI-1 header: download it again, or convert it")
    dim = struct.unpack_from(f"{order}8h", content, 40)
    kind, bits = struct.unpack_from(f"{order}2h", content, 70)
    offset = int(struct.unpack_from(f"{order}f", content, 108)[0])
    size = math.prod(dim[1 : dim[0] + 1]) * bits // 8
    if len(content) < offset + size:
        raise DataError(f"{path} is cut short ({len(content):,} of {offset + size:,} bytes): download it again")
    if kind in (16, 64):  # float32, float64
        values = np.frombuffer(content, f"{order}f{bits // 8}", size * 8 // bits, offset)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise DataError(f"{path} has {bad} voxels that are NaN or infinite: download it again, or set them to 0")


def read_volume(path: Path) -> "sitk.Image":
    """Read a file of one volume.

    Raises:
        DataError: As :func:`read_volumes`, and if there are several.
    """
    volumes = read_volumes(path)
    if len(volumes) > 1:
        raise DataError(f"{path} holds {len(volumes)} volumes; expected one")
    return volumes[0]


def check_same_grid(volume: "sitk.Image", other: "sitk.Image", path: Path, other_path: Path) -> None:
    """Refuse volumes that do not lie on the same voxels.

    Raises:
        DataError: Naming both files and what differs.
    """
    for name, a, b in (
        ("size", volume.GetSize(), other.GetSize()),
        ("spacing", volume.GetSpacing(), other.GetSpacing()),
        ("origin", volume.GetOrigin(), other.GetOrigin()),
        ("direction", volume.GetDirection(), other.GetDirection()),
    ):
        if not np.allclose(a, b, atol=_SAME_PLACE):
            shown = [", ".join(f"{value:g}" for value in values) for values in (a, b)]
            raise DataError(f"{path} has {name} ({shown[0]}), but {other_path} ({shown[1]}): register them first")


def to_labels(volume: "sitk.Image", allowed: set[int], path: Path) -> NDArray[np.uint8]:
    """Return the labels of a segmentation, (D, H, W).

    Args:
        volume: The segmentation.
        allowed: The values of the label scheme; 0 is always one.
        path: Its file, for the message.

    Raises:
        DataError: If there is another value: schemes differ between years, and the same number means another tissue.
    """
    import SimpleITK as sitk

    values = whole_labels(sitk.GetArrayFromImage(volume))
    unknown = sorted(set(np.unique(values).tolist()) - allowed - {0})
    if unknown:
        raise DataError(
            f"{path} has labels {first_names([f'{value:g}' for value in unknown], 5)}; this scheme has "
            f"{', '.join(map(str, sorted(allowed | {0})))}: choose the yaml of the data's year, or say what each value "
            "is by --data.labels (in BraTS 2024, which has no yaml, 4 is the resection cavity)"
        )
    labels: NDArray[np.uint8] = values.astype(np.uint8)
    return labels
