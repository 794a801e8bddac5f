"""Read NIfTI files by the standard, without ITK.

ITK's reader mixes the affines of a header, fills files that are cut short with zeros and sets NaN to 0. Fields are
defined in https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError
from diffmedseg.reading.limits import check_size, count_bad

# By field: type and offset in NIfTI-1, then in NIfTI-2.
_FIELDS = {
    "magic": ("S4", 344, "S8", 4),
    "dim": ("8i2", 40, "8i8", 16),
    "datatype": ("i2", 70, "i2", 12),
    "bitpix": ("i2", 72, "i2", 14),
    "pixdim": ("8f4", 76, "8f8", 104),
    "vox_offset": ("f4", 108, "i8", 168),
    "scl_slope": ("f4", 112, "f8", 176),
    "scl_inter": ("f4", 116, "f8", 184),
    "xyzt_units": ("u1", 123, "i4", 500),
    "qform_code": ("i2", 252, "i4", 344),
    "sform_code": ("i2", 254, "i4", 348),
    "quatern": ("3f4", 256, "3f8", 352),
    "qoffset": ("3f4", 268, "3f8", 376),
    "srow": ("(3,4)f4", 280, "(3,4)f8", 400),
}
_SIZES = (348, 540)  # of the header of NIfTI-1 and NIfTI-2: its first field
# Made once: NumPy parses text as Python to make them, and CPython 3.11 cannot do this in several threads at once.
_LAYOUTS = tuple(
    np.dtype(
        {
            "names": list(_FIELDS),
            "formats": [field[2 * kind] for field in _FIELDS.values()],
            "offsets": [field[2 * kind + 1] for field in _FIELDS.values()],
            "itemsize": size,
        }  # type: ignore[call-overload]
    )
    for kind, size in enumerate(_SIZES)
)
_MAGIC = (b"n+1", b"n+2\0\r\n\x1a\n")
_PAIR = (b"ni1", b"ni2\0\r\n\x1a\n")
_EXTENDER = 4  # bytes between header and voxels, at least
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"
}  # fmt: skip
_OTHER_TYPES = {1: "bits", 32: "complex numbers", 128: "colours", 1536: "floats of 128 bits", 1792: "complex numbers",
                2048: "complex numbers", 2304: "colours"}  # fmt: skip
_UNITS = {1: "metres", 3: "micrometres"}  # xyzt_units & 7; 0 (unknown) is read as 2, millimetres
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class NiftiHeader:
    """Checked header of a file.

    Attributes:
        size: Voxels along x, y and z.
        volumes: Number of volumes in the file, along its fourth axis.
        dtype: Type of the voxels as stored.
        offset: Byte of the first voxel.
        slope: Factor from stored values to values.
        inter: Offset that is added to the product.
        fields: The fields on the positions of the voxels, by their name in the standard.
    """

    size: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    fields: dict[str, NDArray[np.float64]]

    @property
    def bytes(self) -> int:
        """Size of all the voxels, in bytes."""
        return math.prod(self.size) * self.volumes * self.dtype.itemsize


def read_header(path: Path) -> NiftiHeader:
    """Read the header of a file. The content, not the name, decides if the file is compressed.

    Raises:
        DataError: If the file is damaged, or of an unsupported kind; names the file.
    """
    with _open(path) as file:
        return _parse(file.read(_SIZES[1]), path)


def read_nifti(path: Path) -> tuple[NDArray[np.float32], NiftiHeader]:
    """Read a file.

    Returns:
        The values of all volumes, (N, D, H, W), and the header.

    Raises:
        DataError: If the file is damaged, cut short, too large, of an unsupported kind, or holds NaN; names the file.
    """
    with _open(path) as file:
        header = _parse(file.read(_SIZES[1]), path)
        check_size(path, math.prod(header.size) * header.volumes, header.offset + header.bytes)
        file.seek(header.offset)
        content = file.read(header.bytes)
        while file.read(2**20):  # a compressed file has a checksum at its end
            pass
    if len(content) < header.bytes:
        raise DataError(
            f"{path} is cut short ({len(content):,} of {header.bytes:,} bytes of voxels): download it again"
        )
    stored = np.frombuffer(content, header.dtype).reshape(header.volumes, *header.size[::-1])
    with np.errstate(over="ignore", invalid="ignore"):  # counted below
        if (header.slope, header.inter) == (1, 0):
            values = stored.astype(np.float32)
        else:
            values = np.stack([(volume * header.slope + header.inter).astype(np.float32) for volume in stored])
    count_bad(path, values)
    return values, header


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): download it again") from error


def _parse(content: bytes, path: Path) -> NiftiHeader:
    raw, kind = _fields(content, path)
    code, bits = int(raw["datatype"]), int(raw["bitpix"])
    if code not in _TYPES:
        voxel_kind = _OTHER_TYPES.get(code, f"voxels of the unknown type {code}")
        raise DataError(f"{path} holds {voxel_kind}; expected one whole or real number per voxel: convert it")
    dtype = np.dtype(_TYPES[code]).newbyteorder(raw.dtype["datatype"].byteorder)
    if bits != 8 * dtype.itemsize:
        raise DataError(f"{path} has bitpix {bits}, and a datatype of {8 * dtype.itemsize} bits: its header is damaged")
    size, volumes = _shape(raw["dim"].tolist(), path)
    offset, first_offset = float(raw["vox_offset"]), _SIZES[kind] + _EXTENDER
    if not (first_offset <= offset < 2**62 and offset == int(offset)):
        raise DataError(
            f"{path} says that its voxels begin at byte {offset:g}; expected {first_offset} or more: its "
            "header is damaged"
        )
    if unit := _UNITS.get(int(raw["xyzt_units"]) & 7):
        raise DataError(f"{path} gives lengths in {unit}; expected millimetres: correct xyzt_units, or convert it")
    slope, inter = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or math.isnan(slope):
        slope, inter = 1.0, 0.0  # the standard: values are as stored
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise DataError(f"{path} scales its values by {slope:g} and adds {inter:g}: correct scl_slope and scl_inter")
    names = ("pixdim", "qform_code", "sform_code", "quatern", "qoffset", "srow")
    fields = {name: np.asarray(raw[name], dtype=np.float64) for name in names}
    return NiftiHeader(size, volumes, dtype, int(offset), slope, inter, fields)


def _fields(content: bytes, path: Path) -> tuple[Any, int]:
    """Return the fields of a header, and its version: 0 for NIfTI-1, 1 for NIfTI-2."""
    for kind, size in enumerate(_SIZES):
        for order in "<>":
            if content[:4] != size.to_bytes(4, "little" if order == "<" else "big") or len(content) < size:
                continue
            raw = np.frombuffer(content, _LAYOUTS[kind].newbyteorder(order), 1)[0]
            if raw["magic"] == _PAIR[kind]:
                raise DataError(f"{path} is half of a pair (.hdr and .img): convert the pair to .nii.gz")
            if raw["magic"] != _MAGIC[kind]:
                raise DataError(f"{path} is not NIfTI. It may be Analyze 7.5, a format without orientation: convert it")
            return raw, kind
    raise DataError(f"{path} cannot be read (it has no NIfTI header): download it again, or convert it")


def _shape(dim: list[int], path: Path) -> tuple[tuple[int, int, int], int]:
    """Return the numbers of voxels along three axes, and the number of volumes."""
    count, sizes = dim[0], dim[1:]
    if not 1 <= count <= 7 or min(sizes[:count]) < 1:
        raise DataError(f"{path} has {count} dimensions {tuple(sizes)}: its header is damaged")
    sizes = sizes[:count]
    while sizes[-1] == 1 and len(sizes) > 1:
        sizes.pop()
    if len(sizes) > 4:
        values = f"{math.prod(sizes[4:])} values per voxel"
        raise DataError(f"{path} has {len(sizes)} dimensions {tuple(sizes)}, {values}; expected one: split it")
    if count < 2:
        raise DataError(f"{path} has one dimension; a volume has three, several volumes have four")
    x, y, z, volumes = sizes + [1] * (4 - len(sizes))
    return (x, y, z), volumes
