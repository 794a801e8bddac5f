"""Check MetaImage (.mha) and NRRD (.nrrd) files for faults that ITK silently replaces or ignores."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.reading.grid import UNSAID

_HEADER = 2**16  # bytes that are searched for the header
_LONGEST_LINE = 1000  # characters: ITK's reader of NRRD crashes on lines of some thousands
# Names of the space of an NRRD file's directions, without the suffix for a fourth axis of time.
_SPACES = {"right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps"}
_UNITS = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "s", "ms", "???", "none"}
# Fields of MetaImage. ITK ignores a field that has letters in another case.
_META_FIELDS = (
    "AnatomicalOrientation", "BinaryData", "BinaryDataByteOrderMSB", "CenterOfRotation", "CompressedData",
    "CompressedDataSize", "DimSize", "DistanceUnits", "ElementByteOrderMSB", "ElementDataFile",
    "ElementNumberOfChannels", "ElementSize", "ElementSpacing", "ElementToIntensityFunctionOffset",
    "ElementToIntensityFunctionSlope", "ElementType", "HeaderSize", "NDims", "ObjectType", "Offset", "Orientation",
    "Origin", "Position", "Rotation", "TransformMatrix",
)  # fmt: skip
_WRITTEN = {field.lower(): field for field in _META_FIELDS}
# How many numbers these fields have, as a power of the number of dimensions.
_NUMBERS = {
    "dimsize": 1, "elementspacing": 1, "elementsize": 1, "offset": 1, "position": 1, "origin": 1, "transformmatrix": 2,
    "rotation": 2, "orientation": 2,
}  # fmt: skip
_SCALES = {"elementtointensityfunctionslope": 1, "elementtointensityfunctionoffset": 0}
_ENCODINGS = {"raw": "raw", "gzip": "packed", "gz": "packed", "ascii": "text", "text": "text", "txt": "text"}  # of NRRD
_ANY = 47  # zlib: streams of zlib and of gzip
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class ItkHeader:
    """Fields of a file's header.

    Attributes:
        fields: By name in lower case, of NRRD without spaces.
        note: What is ambiguous about the positions of the voxels, for people; often empty.
        end: Length of the header, in bytes.
        encoding: How the voxels are stored: ``raw``, ``packed`` or ``text``.
    """

    fields: dict[str, str]
    note: str
    end: int
    encoding: str

    @property
    def listed(self) -> bool:
        """Whether an NRRD axis lists volumes. ITK reads such volumes as several values per voxel."""
        return "list" in self.fields.get("kinds", "").lower().split()


def is_nrrd(path: Path) -> bool:
    """Return whether a file is NRRD by its name, else MetaImage."""
    return path.name.lower().endswith(".nrrd")


def check_header(path: Path) -> ItkHeader:
    """Read a header.

    Raises:
        DataError: If the file is missing, or ITK would ignore or replace a part of its header.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: download it again, or leave it out")
    with path.open("rb") as file:
        content = file.read(_HEADER)
    fields, end = _nrrd_fields(path, content) if is_nrrd(path) else _meta_fields(path, content)
    if is_nrrd(path):
        sizes = fields.get("spacedirections", fields.get("spacings"))
        units = f"{fields.get('spaceunits', '')} {fields.get('units', '')}"
        detached = "datafile" in fields
        known_space = fields.get("space", "").lower().removesuffix("-time").removesuffix("t") in _SPACES
        encoding = _nrrd_encoding(path, fields)
    else:
        sizes, units = fields.get("elementspacing", fields.get("elementsize")), fields.get("distanceunits", "")
        detached = fields.get("elementdatafile", "local").lower() != "local"
        known_space = True  # always LPS
        encoding = _meta_encoding(path, fields)
    if detached:
        raise DataError(f"{path} is a header, and its voxels are in another file: convert both to .nii.gz")
    if sizes is None:
        raise DataError(f"{path} has no size of voxels: convert it again, with its spacing")
    numbers = [float(number) for number in _NUMBER.findall(sizes.lower())]
    if "spacedirections" not in fields and (len(numbers) < 3 or min(numbers) <= 0):
        raise DataError(f"{path} has voxels of {sizes} mm: correct their size, or convert it again")
    if other_units := set(re.split(r'[\s"]+', units.lower())) - _UNITS:
        raise DataError(f"{path} gives lengths in {other_units.pop()}; expected millimetres (mm): convert it")
    if not is_nrrd(path):
        _check_numbers(path, fields)
    return ItkHeader(fields, "" if known_space else UNSAID, end, encoding)


def _lines(content: bytes) -> list[tuple[str, int]]:
    """Return each line with the offset of the byte after it."""
    lines, end = [], 0
    for line in content.split(b"\n"):
        end += len(line) + 1
        lines.append((line.rstrip(b"\r").decode("latin-1"), end))
    return lines


def _check_line(path: Path, line: str) -> None:
    if len(line) > _LONGEST_LINE:
        raise DataError(f"{path} has a line of {len(line):,} characters in its header: download it again")


def _nrrd_fields(path: Path, content: bytes) -> tuple[dict[str, str], int]:
    """Return the fields up to the empty line, and the byte offset of the voxels."""
    fields: dict[str, str] = {}
    for line, end in _lines(content):
        _check_line(path, line)
        if not line:
            return fields, end
        name, separator, value = line.partition(":")
        if separator and not line.startswith("#") and not value.startswith("="):  # := is a user's own key
            fields[re.sub(r"\s", "", name).lower()] = value.strip()
    return fields, len(content)


def _meta_fields(path: Path, content: bytes) -> tuple[dict[str, str], int]:
    """Return the fields up to ElementDataFile, and the byte offset of the voxels."""
    fields: dict[str, str] = {}
    for line, end in _lines(content):
        _check_line(path, line)
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator:
            continue
        if name != _WRITTEN.get(name.lower(), name):
            raise DataError(f"{path} has the field {name}; expected {_WRITTEN[name.lower()]}: rename it")
        if name in _META_FIELDS and name.lower() in fields:
            raise DataError(f"{path} has the field {name} twice: its header is damaged. Download it again")
        fields[name.lower()] = value
        if name == "ElementDataFile":
            return fields, end
    return fields, len(content)


def _check_numbers(path: Path, fields: dict[str, str]) -> None:
    """Refuse fields with wrong numbers: ITK would ignore them, invent others, or end the process."""
    if not re.fullmatch("[1-7]", fields.get("ndims", "")) or "dimsize" not in fields:
        dimensions = f"NDims = {fields.get('ndims', 'nothing')} and DimSize = {fields.get('dimsize', 'nothing')}"
        raise DataError(f"{path} has {dimensions}: its header is damaged. Download it again")
    for name, power in _NUMBERS.items():
        numbers, expected = fields.get(name, "").split(), int(fields["ndims"]) ** power
        if name in fields and (len(numbers) != expected or None in map(_number, numbers)):
            field = f"{_WRITTEN[name]} = {fields[name]}"
            raise DataError(
                f"{path} has {field}; expected {expected} numbers: its header is damaged. Download it again"
            )


def _nrrd_encoding(path: Path, fields: dict[str, str]) -> str:
    encoding = fields.get("encoding", "").lower()
    if encoding not in _ENCODINGS:
        raise DataError(
            f"{path} has {f'the encoding {encoding}' if encoding else 'no encoding'}; expected raw, gzip or ascii: "
            "convert it"
        )
    for name in ("lineskip", "byteskip"):
        if fields.get(name, "0") not in {"0", "-1"}:
            raise DataError(f"{path} has other data before its voxels ({name} is {fields[name]}): convert it")
    return _ENCODINGS[encoding]


def _meta_encoding(path: Path, fields: dict[str, str]) -> str:
    for name, usual in _SCALES.items():
        if name in fields and _number(fields[name]) != usual:
            raise DataError(
                f"{path} scales its values ({_WRITTEN[name]} = {fields[name]}), and such files are not read: convert it"
            )
    if fields.get("headersize", "0") not in {"0", "-1"}:
        raise DataError(f"{path} has other data before its voxels (HeaderSize = {fields['headersize']}): convert it")
    if _true(fields.get("compresseddata", "")):
        if "compresseddatasize" not in fields:
            raise DataError(f"{path} has compressed voxels, but no CompressedDataSize: convert it again")
        return "packed"
    return "raw" if _true(fields.get("binarydata", "")) else "text"


def _true(value: str) -> bool:
    return value[:1] in {"T", "t", "1"}  # as ITK takes it


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def check_voxels(path: Path, header: ItkHeader, count: int, width: int) -> None:
    """Refuse voxels that are damaged or of the wrong length: ITK reads some of them as other values.

    Args:
        path: The file.
        header: The file's header.
        count: Expected number of values.
        width: Bytes of each value, if values are not written as text.

    Raises:
        DataError: Names the file.
    """
    with path.open("rb") as file:
        file.seek(header.end)
        content = file.read()
    actual, expected, what = len(content), count * width, "bytes of voxels"
    if header.encoding == "packed":
        announced = header.fields.get("compresseddatasize", str(actual))
        if announced != str(actual):
            raise DataError(
                f"{path} has {actual:,} bytes of compressed voxels; expected {announced}: download it again"
            )
        actual = _unpacked(path, content, expected)
    elif header.encoding == "text":
        numbers = content.lower().replace(b",", b" ").split()
        bad_voxel = next((number for number in numbers if _number(number.decode("latin-1")) is None), None)
        if bad_voxel is not None:
            raise DataError(f"{path} cannot be read (a voxel is {bad_voxel[:20]!r}): download it again")
        actual, expected, what = len(numbers), count, "voxels"
    if actual < expected:
        raise DataError(f"{path} is cut short ({actual:,} of {expected:,} {what}): download it again")
    if actual > expected:
        raise DataError(f"{path} has more than {expected:,} {what}: its header is damaged. Download it again")


def _unpacked(path: Path, content: bytes, most: int) -> int:
    """Count the decompressed bytes, and stop once there are more than ``most``. Checksums are compared, too."""
    total = 0
    try:
        while content:  # gzip may have several parts
            stream = zlib.decompressobj(_ANY)
            while not stream.eof and content:
                total += len(stream.decompress(content, 2**24))
                if total > most:
                    return total
                content = stream.unconsumed_tail
            if not stream.eof:
                raise zlib.error("it ends too early")
            content = stream.unused_data
    except zlib.error as error:
        raise DataError(f"{path} cannot be read (its compressed voxels are damaged): download it again") from error
    return total
