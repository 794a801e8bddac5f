"""Reading volumes, by SimpleITK, and bringing their values into the model's range."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.files import first_names
from diffmedseg.errors import DataError

if TYPE_CHECKING:
    import SimpleITK as sitk

# Values beyond five standard deviations are clipped, and these five fill [0, 1] and [-1, 0] (design.md, section 3).
_CLIP = 5.0
_SAME_PLACE = 1e-3  # mm, and parts of a unit vector: headers are rounded
_AIR = 0.1  # of a bright voxel; ours
# What is dark takes up to .06 of brains of BraTS 2015 (.12 where their background is set to the mean), and .36 and more
# of what differs from a blank rim in cases of LGG: measured for each channel and all of them.
_NOISE = 0.2


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

    values = sitk.GetArrayFromImage(volume)
    unknown = sorted(set(np.unique(values).tolist()) - allowed - {0})
    if unknown:
        raise DataError(
            f"{path} has labels {first_names([f'{value:g}' for value in unknown], 5)}; this scheme has "
            f"{', '.join(map(str, sorted(allowed | {0})))}: choose the yaml of the data's year, or say what each value "
            "is by --data.labels (in BraTS 2024, which has no yaml, 4 is the resection cavity)"
        )
    labels: NDArray[np.uint8] = values.astype(np.uint8)
    return labels


def find_brain(channels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the brain, or the head where there is a skull: in training and in prediction alike.

    Where the skull was stripped that is where any channel differs from its own constant background: the commonest value
    on the faces of the volume, which need not be 0 (data that was z-scored before has a negative one). A channel with
    noise there, where no value fills half of them, has none and is left to the others.

    Where it was not there is noise around the head, though perhaps behind a blank rim. So where no channel has such a
    background, or much of what differs from it is dark in every channel, all that is dark in every channel is air. (Not
    where the background lies well within the range of a channel, as 0 in z-scored data: there dark is no air.)

    Args:
        channels: (C, D, H, W).

    Returns:
        (D, H, W).
    """
    brain, dark = np.zeros(channels.shape[1:], dtype=bool), np.ones(channels.shape[1:], dtype=bool)
    for channel in channels:
        faces = np.concatenate([channel[:, [0, -1]].ravel(), channel[:, :, [0, -1]].ravel()])
        values, counts = np.unique(faces, return_counts=True)
        if 2 * counts.max() >= len(faces):
            background, least, most = values[counts.argmax()], channel.min(), channel.max()
            brain |= channel != background
            if _AIR * (most - least) < background - least < most - least:
                dark[:] = False
        low, bright = np.percentile(channel, (1, 99))
        black = min(low, 0)  # where it may be negative
        dark &= channel <= black + _AIR * (bright - black)
    noise = np.count_nonzero(brain & dark)
    return brain if noise < _NOISE * np.count_nonzero(brain) else ~dark


#: What :func:`normalise` does, for people.
NORMALISATION = (
    "by volume: zero mean and unit deviation over the brain, clipped to +-5, divided by 5; -1 outside of the brain"
)


def normalise(channels: NDArray[np.float32], brain: NDArray[np.bool_], names: list[str]) -> NDArray[np.float32]:
    """Bring each channel to zero mean and unit deviation over the brain, clipped to +-5 and divided by 5.

    Args:
        channels: (C, D, H, W).
        brain: (D, H, W).
        names: What each channel is, for the message.

    Returns:
        In [-1, 1]; -1 outside of the brain.

    Raises:
        DataError: If there is no brain, or a channel is constant within it.
    """
    if not brain.any():
        raise DataError(f"{names[0]} has no brain: every voxel is background")
    result = np.full_like(channels, -1)
    for channel, out, name in zip(channels, result, names, strict=True):
        values = channel[brain]
        deviation = values.std(dtype=np.float64)
        if not deviation > 1e-6 * max(abs(values).max(), 1e-6):
            raise DataError(f"{name} is constant ({values[0]:g}) within the brain: download it again")
        out[brain] = ((values - values.mean(dtype=np.float64)) / deviation).clip(-_CLIP, _CLIP) / _CLIP
    return result
