"""Read volumes: NIfTI, MetaImage, NRRD and TIFF of several pages."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.affine import find_grid
from diffmedseg.reading.grid import Frame, Grid
from diffmedseg.reading.itk_files import count_itk, itk_note, read_itk
from diffmedseg.reading.masks import binarise, whole_labels
from diffmedseg.reading.nifti import read_header, read_nifti
from diffmedseg.reading.stacks import STACKS, read_stack, stack_note
from diffmedseg.wording import first_names

if TYPE_CHECKING:
    import SimpleITK as sitk

_WHITE = {255, 65535}  # foreground, as tools for pictures write it
_BRATS = "brats"  # in the names of all its files
_SAME_PLACE = 1e-3  # mm, and parts of a unit vector: headers are rounded


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_stored(path: Path) -> list["sitk.Image"]:
    """Read a file of one volume, or of several volumes along its fourth axis, as float32.

    The positions of NIfTI voxels are taken from the sform, else from the qform, else around the centre.

    Raises:
        DataError: If the file is missing or damaged, has more than four dimensions, holds NaN, or does not give the
            size of its voxels; names the file.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: download the case again, or leave its folder out")
    if _is_nifti(path):
        values, header = read_nifti(path)
        grid = find_grid(header, path)
    elif path.suffix.lower() in STACKS:
        values, grid = read_stack(path)
    else:
        values, grid = read_itk(path)
    return [_to_image(volume, grid) for volume in values]


def _to_image(values: NDArray[np.float32], grid: Grid) -> "sitk.Image":
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values)
    grid.give(image)
    return image


def grid_note(path: Path) -> str:
    """Return a note if the positions of a file's voxels are ambiguous, such as by two different affines; else "".

    Raises:
        DataError: If the file's header is damaged.
    """
    if path.suffix.lower() in STACKS:
        return stack_note(path)
    return find_grid(read_header(path), path).note if _is_nifti(path) else itk_note(path)


def count_volumes(path: Path) -> int:
    """Count the volumes in a file, by its header; 0 if the header cannot be read."""
    try:
        return read_header(path).volumes if _is_nifti(path) else count_itk(path)
    except DataError:
        return 0


def read_volumes(path: Path) -> list["sitk.Image"]:
    """Read volumes by :func:`read_stored`, and swap and flip their axes to be nearest to LPS."""
    import SimpleITK as sitk

    return [sitk.DICOMOrient(volume, "LPS") for volume in read_stored(path)]


def read_volume(path: Path) -> "sitk.Image":
    """Read a file of one volume.

    Raises:
        DataError: As :func:`read_volumes`, or if the file has several volumes.
    """
    volumes = read_volumes(path)
    if len(volumes) > 1:
        raise DataError(f"{path} holds {len(volumes)} volumes; expected one")
    return volumes[0]


def check_same_grid(volume: Frame, other: Frame, path: Path, other_path: Path) -> None:
    """Refuse volumes that do not lie on the same voxels.

    Raises:
        DataError: Names both files and the difference.
    """
    for name, a, b in (
        ("size", volume.size, other.size),
        ("spacing", volume.grid.spacing, other.grid.spacing),
        ("origin", volume.grid.origin, other.grid.origin),
        ("direction", volume.grid.direction.ravel(), other.grid.direction.ravel()),
    ):
        if not np.allclose(a, b, atol=_SAME_PLACE):
            value_texts = [", ".join(f"{value:g}" for value in values) for values in (a, b)]
            raise DataError(
                f"{path} has {name} ({value_texts[0]}), but {other_path} ({value_texts[1]}): register them first"
            )


def check_slices(volume: Frame, path: Path) -> None:
    """Refuse a volume, with axes nearest to LPS, whose axial slices are lines.

    Raises:
        DataError: Names the file.
    """
    width, height, _ = volume.size
    if min(width, height) == 1:
        raise DataError(
            f"{path}: its axial slices are {height} x {width} voxels, so they are lines. A single slice has to be axial"
        )


def read_brain(path: Path, volume: Frame, volume_path: Path) -> NDArray[np.bool_]:
    """Read the brain mask of a volume, (D, H, W).

    Raises:
        DataError: If the file is no mask, is empty, or is on another grid than the volume; names the file.
    """
    import SimpleITK as sitk

    mask = read_volume(path)
    check_same_grid(Frame.of(mask), volume, path, volume_path)
    values = sitk.GetArrayFromImage(mask)
    brain = binarise(values, path)
    if not brain.any():
        raise DataError(f"{path}, the brain mask, is empty: its largest value is {values.max():g}. Expected 1 or 255")
    return brain


def to_labels(volume: "sitk.Image", allowed: set[int], path: Path) -> NDArray[np.uint8]:
    """Return the labels of a segmentation, (D, H, W).

    Args:
        volume: The segmentation.
        allowed: The values of the label scheme; 0 is always allowed.
        path: Its file, for the message.

    If 1 is the only label, 255 and 65535 are read as 1, as in pictures.

    Raises:
        DataError: If there is another value: schemes differ between years, and the same number can mean another tissue.
    """
    import SimpleITK as sitk

    values = whole_labels(sitk.GetArrayFromImage(volume))
    present = set(np.unique(values).tolist()) - {0}
    if allowed == {1} and len(present) == 1 and present <= _WHITE:
        values, present = (values > 0).astype(np.uint8), {1}
    unknown = sorted(present - allowed)
    if unknown:
        choose = "choose the yaml of the data's year, or say" if _BRATS in path.name.lower() else "say"
        year = " (in BraTS 2024, which has no yaml, 4 is the resection cavity)" if _BRATS in path.name.lower() else ""
        raise DataError(
            f"{path} has labels {first_names([f'{value:g}' for value in unknown], 5)}; this scheme has "
            f"{', '.join(map(str, sorted(allowed | {0})))}: {choose} what each value is by --data.labels{year}"
        )
    labels: NDArray[np.uint8] = values.astype(np.uint8)
    return labels
