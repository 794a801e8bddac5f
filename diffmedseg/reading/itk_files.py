"""Reading MetaImage (.mha) and NRRD (.nrrd) files by SimpleITK, and refusing what it would read wrongly."""

import math
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.grid import UNSAID, Grid, check_straight
from diffmedseg.reading.limits import check_size, count_bad

if TYPE_CHECKING:
    import SimpleITK as sitk

_HEADER = 2**16  # bytes that are searched for the header
_PART = 2**20  # bytes that are decompressed at a time
_LONGEST_LINE = 1000  # characters: ITK's reader of NRRD crashes on lines of some thousands
# Names of spaces in which NRRD files say how they lie, without those for a fourth axis of time.
_SPACES = {"right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps"}
_MILLIMETRES = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", ""}


def read_itk(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """Read a file.

    Returns:
        The values of all volumes, (N, D, H, W), and where they lie.

    Raises:
        DataError: If the file is damaged, has voxels of no or of several values, does not say how large its voxels are,
            has other than three or four dimensions, or holds NaN; names the file.
    """
    import SimpleITK as sitk

    fields, note = _check_header(path)
    size, values = _read_size(path)
    if not size or min(size) < 1:
        raise DataError(f"{path} has the size {size}: it holds no voxel. Download it again")
    check_size(path, math.prod(size) * values, math.prod(size) * values)
    if values != 1 and not _listed(fields):
        raise DataError(f"{path} has {values} values per voxel, as a colour picture; expected one")
    if len(size) not in (3, 4) or (len(size) == 4 and values > 1):
        raise DataError(f"{path} has {len(size)} dimensions {size}; a volume has three, several volumes have four")
    try:
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat32 if values > 1 else sitk.sitkFloat32)
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    array = sitk.GetArrayFromImage(image)
    volumes = np.moveaxis(array, -1, 0) if values > 1 else array.reshape(-1, *array.shape[-3:])
    count_bad(path, volumes)
    return volumes, _grid(image, path, note)


def count_itk(path: Path) -> int:
    """Count the volumes in a file, by its header.

    Raises:
        DataError: If it cannot be read.
    """
    _check_header(path)
    size, values = _read_size(path)
    return math.prod(size[3:]) * values


def _read_size(path: Path) -> tuple[tuple[int, ...], int]:
    """Return the size and the values per voxel."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK would print to the terminal what is raised here anyway
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return header.GetSize(), header.GetNumberOfComponents()


def _unreadable(path: Path, error: RuntimeError) -> DataError:
    reason = str(error).strip().splitlines()[-1].strip()
    return DataError(f"{path} cannot be read ({reason}): download it again")


def _listed(fields: dict[str, str]) -> bool:
    """Whether several values are volumes: ITK takes the volumes of an NRRD list for the values of a voxel."""
    return "list" in fields.get("kinds", "").lower().split()


def itk_note(path: Path) -> str:
    """Say what is ambiguous about where the voxels of a file lie; often nothing."""
    return _check_header(path)[1]


def _grid(image: "sitk.Image", path: Path, note: str) -> Grid:
    """Take where the first volume lies, without a fourth axis."""
    count = image.GetDimension()
    spacing, origin = np.array(image.GetSpacing()[:3]), np.array(image.GetOrigin()[:3])
    direction = np.reshape(image.GetDirection(), (count, count))[:3, :3]
    if not all(np.isfinite(part).all() for part in (spacing, origin, direction)):
        raise DataError(f"{path} has NaN in its header, where it says how it lies: correct it, or convert it again")
    check_straight(path, direction)
    return Grid(spacing, origin, direction, note)


def _check_header(path: Path) -> tuple[dict[str, str], str]:
    """Read the header's fields, refuse what ITK would replace by something, and say what is ambiguous."""
    if not path.is_file():
        raise DataError(f"{path} is missing: download it again, or leave it out")
    with path.open("rb") as file:
        lines = file.read(_HEADER).decode("latin-1").splitlines()
    if path.name.lower().endswith(".nrrd"):
        fields = _until(path, lines, ":", "")
        sizes, units = fields.get("space directions", fields.get("spacings")), fields.get("space units", "")
        detached = "data file" in fields or "datafile" in fields
        known = fields.get("space", "").lower().removesuffix("-time").removesuffix("t") in _SPACES
    else:
        fields = _until(path, lines, "=", "ElementDataFile")
        sizes, units = fields.get("elementspacing", fields.get("elementsize")), fields.get("distanceunits", "")
        detached = fields.get("elementdatafile", "local").lower() != "local"
        known = True  # always LPS
        _check_meta_image(path, fields)
    if detached:
        raise DataError(f"{path} is a header whose voxels lie in another file: convert both to .nii.gz")
    if sizes is None:
        raise DataError(f"{path} does not say how large its voxels are: convert it again, with its spacing")
    numbers = [float(number) for number in re.findall(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", sizes.lower())]
    if "space directions" not in fields and (len(numbers) < 3 or min(numbers) <= 0):
        raise DataError(f"{path} has voxels of {sizes} mm: correct their size, or convert it again")
    if other := set(re.split(r'[\s"]+', units.lower())) - _MILLIMETRES - {"s", "ms", "???", "none"}:
        raise DataError(f"{path} gives lengths in {other.pop()}; expected millimetres (mm): convert it")
    return fields, "" if known else UNSAID


def _check_meta_image(path: Path, fields: dict[str, str]) -> None:
    """Refuse what ITK's reader of MetaImage crashes on, or never returns from."""
    if fields.get("ndims") not in {"1", "2", "3", "4", "5"}:
        raise DataError(f"{path} does not say how many dimensions it has (NDims): download it again")
    if fields.get("compresseddata", "").lower() != "true":
        return
    unpacker = zlib.decompressobj()
    try:
        with path.open("rb") as file:
            while (line := file.readline()) and not line.startswith(b"ElementDataFile"):
                pass
            while not unpacker.eof and (part := unpacker.unconsumed_tail or file.read(_PART)):
                unpacker.decompress(part, _PART)
    except zlib.error as error:
        raise DataError(f"{path} has damaged voxels ({error}): download it again") from error
    if not unpacker.eof:
        raise DataError(f"{path} is cut short: download it again")


def _until(path: Path, lines: list[str], sign: str, last: str) -> dict[str, str]:
    """Return fields by their name in lower case, up to the line that is empty or has a name."""
    fields: dict[str, str] = {}
    for line in lines:
        if len(line) > _LONGEST_LINE:
            raise DataError(f"{path} has a line of {len(line):,} characters in its header: download it again")
        name, separator, value = line.partition(sign)
        if separator and not line.startswith("#"):
            fields[name.strip().lower()] = value.strip()
        if name.strip() == last:
            break
    return fields
