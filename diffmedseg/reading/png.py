"""Check that a PNG holds all of its pixels. Pillow reads missing pixels as black."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from diffmedseg.reading.opening import PictureError

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG specification, section 11.2.1)
# First column and row, and steps of columns and rows of the passes of Adam7 (section 8.2).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PART = 2**20  # bytes that are inflated at a time


def check_rows(path: Path) -> None:
    """Refuse a PNG whose pixels end before its last row, though its checksums are right.

    Raises:
        PictureError: The message has the number of missing bytes.
    """
    with path.open("rb") as file:
        file.seek(8)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind != b"IHDR" or length < 13:
            return  # Pillow raises the error
        width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", file.read(13))
        file.seek(length - 13 + 4, 1)
        expected_bytes = _size(width, height, bits * _CHANNELS.get(colour, 0), bool(interlaced))
        num_bytes, decompressor = 0, zlib.decompressobj()
        for part in _pixels(file):
            compressed = part
            while compressed and num_bytes < expected_bytes:
                try:
                    num_bytes += len(decompressor.decompress(compressed, _PART))
                except zlib.error:
                    return  # Pillow raises the error
                compressed = decompressor.unconsumed_tail
    if decompressor.eof and num_bytes < expected_bytes:  # if the stream itself is cut, Pillow raises the error
        raise PictureError(
            f"it is cut short: it holds {num_bytes:,} of {expected_bytes:,} bytes of pixels. Export it again"
        )


def _size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Return the bytes of all rows, each with the byte that names its filter."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = (((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)


def _pixels(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of the chunks that hold pixels."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            yield file.read(length)
            file.seek(4, 1)
        elif kind == b"IEND":
            return
        else:
            file.seek(length + 4, 1)
