"""Check that the elements of a DICOM file are not longer than the file.

GDCM allocates the length that an element announces, before it notices that the file is shorter.
"""

import struct
from pathlib import Path

from diffmedseg.errors import DataError

_PREAMBLE = 132  # DICOM PS3.10, section 7.1
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_COMPRESSED = "1.2.840.10008.1.2.4"  # JPEG and others: elements as in explicit VR
_SYNTAX = (0x0002, 0x0010)
_ROWS, _COLUMNS, _BITS = (0x0028, 0x0010), (0x0028, 0x0011), (0x0028, 0x0100)
_ITEM_GROUP, _PIXELS = 0xFFFE, (0x7FE0, 0x0010)
# Kinds (VR) with a length of 16 bits. All other kinds, known or not, have a length of 32 bits.
_SHORT = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}
_UNDEFINED = 0xFFFFFFFF


def check_elements(path: Path) -> None:
    """Refuse a file if its elements or its pixels need more bytes than the file has.

    Files without a preamble and files of retired transfer syntaxes are not checked here; GDCM reads them.

    Raises:
        DataError: Names the file.
    """
    content = path.read_bytes()
    if content[_PREAMBLE - 4 : _PREAMBLE] != b"DICM":
        return
    at, implicit, raw = _PREAMBLE, False, False
    sizes: dict[tuple[int, int], int] = {}
    while at + 8 <= len(content):
        tag: tuple[int, int] = struct.unpack_from("<2H", content, at)
        in_header = tag[0] == 0x0002
        if tag[0] == _ITEM_GROUP:
            start, length = at + 8, struct.unpack_from("<I", content, at + 4)[0]
            nested = not raw
        else:
            start, length, kind = _header(content, at, implicit and not in_header)
            nested = kind == b"SQ" or (length == _UNDEFINED and tag != _PIXELS)
            raw = length == _UNDEFINED and tag == _PIXELS
        if length != _UNDEFINED and start + length > len(content):
            raise _damaged(path)
        if tag == _SYNTAX:
            syntax = content[start : start + length].decode("latin-1").strip("\0 ")
            if syntax not in (_IMPLICIT, _EXPLICIT) and not syntax.startswith(_COMPRESSED):
                return
            implicit = syntax == _IMPLICIT
        if tag in (_ROWS, _COLUMNS, _BITS) and length == 2:
            sizes[tag] = struct.unpack_from("<H", content, start)[0]
        if tag == _PIXELS and length not in (_UNDEFINED, 0) and sizes.keys() >= {_ROWS, _COLUMNS, _BITS}:
            _check_pixels(path, sizes, length)
        at = start if nested or length == _UNDEFINED else start + length


def _header(content: bytes, at: int, implicit: bool) -> tuple[int, int, bytes]:
    """Return where the value of an element starts, its length, and its kind (VR)."""
    kind = content[at + 4 : at + 6]
    if implicit:
        return at + 8, struct.unpack_from("<I", content, at + 4)[0], b""
    if kind in _SHORT or at + 12 > len(content):
        return at + 8, struct.unpack_from("<H", content, at + 6)[0], kind
    return at + 12, struct.unpack_from("<I", content, at + 8)[0], kind


def _check_pixels(path: Path, sizes: dict[tuple[int, int], int], length: int) -> None:
    if sizes[_ROWS] * sizes[_COLUMNS] * sizes[_BITS] // 8 > length:
        raise _damaged(path)


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged: its elements are missing, or longer than the file. Export it again")
