"""Volumes of many kinds, as bytes, written without the package's own code."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import nrrd
import numpy as np
from numpy.typing import DTypeLike, NDArray

Harm = Callable[[bytes], bytes]

SIZE = (8, 7, 5)  # x, y, z
AFFINE = np.array([[-2.0, 0, 0, 11], [0, -1.5, 0, 12], [0, 0, 3, -13], [0, 0, 0, 1]])  # RAS
SIZES = (2.0, 1.5, 3.0)


def blob() -> NDArray[np.bool_]:
    """A mask, off the middle in every direction."""
    x, y, z = np.mgrid[tuple(slice(n) for n in SIZE)]
    return (np.abs(x - 3) < 2) & (np.abs(y - 4) < 2) & (np.abs(z - 1) < 1.5)


def picture() -> NDArray[np.float64]:
    """Whole numbers below 128, with a background of 0."""
    values = np.zeros(SIZE)
    values[1:-1, 1:-1] = 40 + np.random.default_rng(0).integers(0, 30, SIZE)[1:-1, 1:-1]
    return values + 20 * blob()


def nifti(
    values: NDArray[Any],
    dtype: DTypeLike = np.int16,
    version: int = 1,
    order: Literal["<", ">"] = "<",
    offset: float | None = None,
    packed: bool = False,
    cut: int = 0,
    behind: bytes = b"",
    magic: bytes | None = None,
    **fields: Any,
) -> bytes:
    """Write (x, y, z) by nibabel's table of a header's fields; by default all its affines agree."""
    header = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version](endianness=order)
    header.set_data_dtype(dtype)
    header.set_data_shape(values.shape)
    header.set_zooms(SIZES[: values.ndim] + (1.0,) * (values.ndim - 3))
    header.set_sform(AFFINE, 1)
    header.set_qform(AFFINE, 1)
    least = header.single_vox_offset
    header["magic"], header["vox_offset"] = magic or header.single_magic, least if offset is None else offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    stored = values.astype(np.dtype(dtype).newbyteorder(order)).tobytes(order="F")
    start = header.binaryblock.ljust(least if offset is None else max(least, int(offset)), b"\0")
    content = start + stored
    content = content[: len(content) - cut]
    return (gzip.compress(content) if packed else content) + behind


def affine_fields(affine: NDArray[Any], code: int = 1) -> dict[str, Any]:
    return {"sform_code": code, "srow_x": affine[0], "srow_y": affine[1], "srow_z": affine[2]}


def pixdim(*sizes: float, fac: float = 1) -> dict[str, list[float]]:
    return {"pixdim": [fac, *sizes, 1, 1, 1, 1]}


def nrrd_file(values: NDArray[Any], path: Path, **header: Any) -> bytes:
    """Write an NRRD file, and return its bytes."""
    nrrd.write(str(path), values, header)
    return path.read_bytes()


def mha(
    values: NDArray[Any],
    dtype: str = "MET_SHORT",
    end: str = "ElementDataFile = LOCAL\n",
    packed: bool = False,
    harm: Harm | None = None,
    **fields: Any,
) -> bytes:
    """Write (x, y, z) as MetaImage; what is stored is harmed before its size is said."""
    stored = values.astype("<i2").tobytes(order="F")
    if packed:
        stored = (harm or (lambda content: content))(zlib.compress(stored))
        fields = {"CompressedData": True, "CompressedDataSize": len(stored)} | fields
    said = {
        "ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "-11 -12 -13", "ElementSpacing": "2 1.5 3",
        "DimSize": " ".join(map(str, values.shape)), "ElementType": dtype,
    } | fields  # fmt: skip
    lines = "".join(f"{name} = {value}\n" for name, value in said.items() if value is not None)
    return (lines + end).encode() + stored


def nrrd_of(
    values: NDArray[Any], packed: bool = True, harm: Harm | None = None, behind: str = "", **fields: Any
) -> bytes:
    """Write (x, y, z) as NRRD of 16 bits; what is stored is harmed."""
    stored = values.astype("<i2").tobytes(order="F")
    stored = gzip.compress(stored) if packed else stored
    said = {
        "type": "short", "dimension": 3, "sizes": " ".join(map(str, values.shape)), "endian": "little",
        "encoding": "gzip" if packed else "raw", "space": "left-posterior-superior",
        "space directions": "(2,0,0) (0,1.5,0) (0,0,3)", "space origin": "(-11,-12,-13)",
    } | {name.replace("_", " "): value for name, value in fields.items()}  # fmt: skip
    lines = "".join(f"{name}: {value}\n" for name, value in said.items() if value is not None)
    return f"NRRD0004\n{lines}{behind}\n".encode() + (harm or (lambda content: content))(stored)


def flip(content: bytes, at: int | None = None) -> bytes:
    """Turn one bit over, by default in the middle."""
    at = len(content) // 2 if at is None else at
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
