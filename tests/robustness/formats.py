"""Mutations that keep a file's structure: checksums and lengths stay right, and a field changes."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable

from robustness.mutation import FLOATS, INTEGERS, TOKENS, Random, integer, mutate_bytes, mutate_text, overwrite

Mutate = Callable[[bytes, Random, bytes], bytes]

_PNG = b"\x89PNG\r\n\x1a\n"
_BOMB = b"a\0\0" + zlib.compress(bytes(10**7))  # text that fills ten megabytes
_TEXT = (".yaml", ".yml", ".csv", ".json", ".mhd")
# Offset and kind of the fields of the NIfTI-1 header.
_NIFTI = (
    *((0, "i"), (40, "h"), *((42 + 2 * n, "h") for n in range(7)), (70, "h"), (72, "h")),
    *((76 + 4 * n, "f") for n in range(8)),
    *((108, "f"), (112, "f"), (116, "f"), (123, "B"), (252, "h"), (254, "h"), (344, "i")),
    *((256 + 4 * n, "f") for n in range(6)),
    *((280 + 4 * n, "f") for n in range(12)),
)


def mutate(name: str, content: bytes, rng: Random, other: bytes) -> bytes:
    """Mutate a file by what its content or its name says of its format, or without regard to it."""
    structured = _structure(name, content)
    if structured is None or rng.random() < 0.35:
        return mutate_bytes(content, rng, other)
    try:
        content = structured(content, rng, other)
    except (ValueError, IndexError, KeyError, struct.error, zlib.error, OSError, EOFError, zipfile.BadZipFile):
        return mutate_bytes(content, rng, other)
    return mutate_bytes(content, rng, other) if rng.random() < 0.1 else content


def _structure(name: str, content: bytes) -> Mutate | None:
    starts: dict[bytes, Mutate] = {
        _PNG: _png,
        b"\xff\xd8": _jpeg,
        b"II*\0": _tiff,
        b"MM\0*": _tiff,
        b"PK": _zip,
        b"\x1f\x8b": _gzip,
        b"RIFF": _riff,
        b"\x93NUMPY": _npy,
        b"NRRD": _text_header,
        b"ObjectType": _text_header,
        b"NDims": _text_header,
    }
    for start, found in starts.items():
        if content.startswith(start):
            return found
    if name.endswith(_TEXT):
        return mutate_text
    if name.endswith(".nii"):
        return _nifti
    if name.endswith(".safetensors"):
        return _safetensors
    return _dicom if content[128:132] == b"DICM" else None


def _png(content: bytes, rng: Random, other: bytes) -> bytes:
    chunks, at = [], len(_PNG)
    while at < len(content):
        (length,), kind = struct.unpack_from(">I", content, at), content[at + 4 : at + 8]
        chunks.append((kind, content[at + 8 : at + 8 + length]))
        at += length + 12
    which = rng.randrange(len(chunks))
    kind, data = chunks[which]
    choice = rng.random()
    if choice < 0.3:
        where = rng.choice((0, 4, 8, 9, 10, 11, 12))
        header = overwrite(chunks[0][1], where, integer(rng, ">I" if where < 8 else "B"))
        chunks[0] = (b"IHDR", header)
    elif choice < 0.5 and kind == b"IDAT":
        chunks[which] = kind, zlib.compress(mutate_bytes(zlib.decompress(data), rng))
    elif choice < 0.65:
        chunks[which] = kind, mutate_bytes(data, rng, other)
    elif choice < 0.75:
        del chunks[which]
    elif choice < 0.85:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[which])
    else:
        kinds = (b"eXIf", b"iCCP", b"tRNS", b"acTL", b"fcTL", b"PLTE", b"pHYs", b"gAMA", b"cHRM", b"sRGB")
        new = (rng.choice(kinds), rng.randbytes(rng.choice((0, 1, 4, 8, 26, 768))))
        if rng.random() < 0.2:
            new = (b"zTXt", _BOMB)
        chunks.insert(rng.randrange(1, len(chunks) + 1), new)
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return _PNG + b"".join(parts)


def _jpeg(content: bytes, rng: Random, other: bytes) -> bytes:
    segments, at = [], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", content, at + 2)
        segments.append((content[at + 1], content[at + 4 : at + 2 + length]))
        at += 2 + length
    rest, which, choice = content[at:], rng.randrange(len(segments)), rng.random()
    marker, data = segments[which]
    frames = [n for n, (kind, _) in enumerate(segments) if 0xC0 <= kind <= 0xC2]
    if choice < 0.3 and frames:
        kind, frame = segments[frames[0]]
        where = rng.choice((0, 1, 3, 5, 6, 7, 8))
        segments[frames[0]] = kind, overwrite(frame, where, integer(rng, ">H" if where in (1, 3) else "B"))
    elif choice < 0.6:
        segments[which] = marker, mutate_bytes(data, rng, other)[:65000]
    elif choice < 0.7:
        segments[which] = rng.choice((0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE)), data
    elif choice < 0.8:
        del segments[which]
    elif choice < 0.9:
        segments.insert(rng.randrange(len(segments) + 1), segments[which])
    else:
        rest = mutate_bytes(rest, rng, other)
    parts = (struct.pack(">BBH", 0xFF, kind, len(d) + 2) + d for kind, d in segments)
    return content[:2] + b"".join(parts) + rest


def _tiff(content: bytes, rng: Random, other: bytes) -> bytes:
    order = "<" if content.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, at)
    entry = at + 2 + 12 * rng.randrange(count)
    choice = rng.random()
    if choice < 0.15:  # another tag
        tags = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 282, 284, 317, 320, 322, 323, 324, 338, 339, 34665)
        return overwrite(content, entry, struct.pack(f"{order}H", rng.choice(tags)))
    if choice < 0.3:
        return overwrite(content, entry + 2, struct.pack(f"{order}H", rng.randrange(14)))
    if choice < 0.45:
        return overwrite(content, entry + 4, integer(rng, f"{order}I"))
    if choice < 0.55:  # the next page
        return overwrite(content, at + 2 + 12 * count, struct.pack(f"{order}I", rng.choice((at, 0, 8, len(content)))))
    return overwrite(content, entry + 8, integer(rng, order + rng.choice("HI")))


def _riff(content: bytes, rng: Random, other: bytes) -> bytes:
    body = mutate_bytes(content[12:], rng, other)
    return content[:4] + struct.pack("<I", len(body) + 4) + content[8:12] + body


def _nifti(content: bytes, rng: Random, other: bytes) -> bytes:
    order = "<" if content[:4] == struct.pack("<i", 348) else ">"
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, kind = rng.choice(_NIFTI)
        value = integer(rng, order + kind)
        if kind == "h" and rng.random() < 0.5:  # small numbers are the likely ones: dimensions, types and codes
            value = struct.pack(f"{order}h", rng.choice((*range(-1, 9), 16, 32, 64, 128, 256, 512, 768, 1024, 2304)))
        content = overwrite(content, at, value)
    return content


def _gzip(content: bytes, rng: Random, other: bytes) -> bytes:
    inner = gzip.decompress(content)
    inner = (_nifti if rng.random() < 0.7 else mutate_bytes)(inner, rng, other)
    return gzip.compress(inner, 1, mtime=0)


def _text_header(content: bytes, rng: Random, other: bytes) -> bytes:
    """Change the lines before binary data."""
    end = content.find(b"LOCAL\n") + 6 if b"LOCAL\n" in content else content.find(b"\n\n") + 2
    return mutate_text(content[:end], rng, other) + content[end:]


def _safetensors(content: bytes, rng: Random, other: bytes) -> bytes:
    (length,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.3:
        text = mutate_text(content[8 : 8 + length], rng, other)
        return struct.pack("<Q", len(text)) + text + data
    name = rng.choice([key for key in header if key != "__metadata__"])
    own, choice = header[name], rng.random()
    if choice < 0.25:
        own["dtype"] = rng.choice(("F16", "F32", "F64", "I64", "BOOL", "BF16", "U8", "F8_E4M3", "X", 3, None))
    elif choice < 0.5:
        own["shape"] = rng.choice(([], [0], [-1], [2**62, 4], own["shape"][::-1], [*own["shape"], 1], "3", [1.5]))
    elif choice < 0.75:
        own["data_offsets"] = [rng.choice((*INTEGERS, len(data))), rng.choice((*INTEGERS, len(data)))]
    elif choice < 0.85:
        del header[name]
    elif choice < 0.95:
        header[rng.choice(TOKENS)] = header.pop(name)
    else:
        at = rng.randrange(max(len(data) - 4, 1))
        data = overwrite(data, at, struct.pack("<f", rng.choice(FLOATS)))
    text = json.dumps(header).encode("utf-8", "replace")
    return struct.pack("<Q", len(text)) + text + data


def _npy(content: bytes, rng: Random, other: bytes) -> bytes:
    (length,) = struct.unpack_from("<H", content, 8)
    text = mutate_text(content[10 : 10 + length], rng, other)[:60000]
    return content[:8] + struct.pack("<H", len(text)) + text + content[10 + length :]


def _zip(content: bytes, rng: Random, other: bytes) -> bytes:
    """Change a file of an archive, such as the pickle of a checkpoint."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in files if name.endswith(".pkl")]
    name = rng.choice(pickles if pickles and rng.random() < 0.6 else list(files))
    choice = rng.random()
    if choice < 0.7:
        files[name] = mutate_bytes(files[name], rng, other)
    elif choice < 0.8:
        files[name] = CANARY_PICKLE
    elif choice < 0.9:
        del files[name]
    else:
        files[rng.choice(("../outside", "/tmp/outside", "a" * 300, name.upper()))] = files[name]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for each, data in files.items():
            archive.writestr(zipfile.ZipInfo(each), data)
    return written.getvalue()


#: Runs ``touch canary-was-run`` where it is unpickled without care.
CANARY_PICKLE = b"cos\nsystem\n(S'touch canary-was-run'\ntR."


def _dicom(content: bytes, rng: Random, other: bytes) -> bytes:
    elements, at = [], 132
    while at + 8 <= len(content):
        tag, kind = content[at : at + 4], content[at + 4 : at + 6]
        wide = kind in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF")
        head = 12 if wide else 8
        length = struct.unpack_from("<I", content, at + 8)[0] if wide else struct.unpack_from("<H", content, at + 6)[0]
        if length == 0xFFFFFFFF:
            break
        elements.append((tag, kind, wide, content[at + head : at + head + length]))
        at += head + length
    which, choice = rng.randrange(len(elements)), rng.random()
    tag, kind, wide, value = elements[which]
    if choice < 0.5:
        texts = (
            "",
            "0",
            "-1",
            "1\\2\\3",
            "nan\\nan",
            "1e400",
            "0\\0",
            "abc",
            "1.5",
            "9" * 40,
            "\\",
            " 1 ",
            "1,5",
            "\0",
            "é",
        )
        new = (
            rng.choice(texts).encode("latin1") if kind[:1] in b"DICLSPU" and rng.random() < 0.7 else integer(rng, "<H")
        )
        elements[which] = tag, kind, wide, new + b" " * (len(new) % 2)
    elif choice < 0.6:
        del elements[which]
    elif choice < 0.7:
        elements.insert(rng.randrange(len(elements) + 1), elements[which])
    elif choice < 0.8:
        elements[which] = tag, rng.choice((b"US", b"DS", b"IS", b"LO", b"FD", b"UI", b"CS", b"XX")), wide, value
    elif choice < 0.9:
        elements[which] = tag, kind, wide, mutate_bytes(value, rng, other)[:60000]
    else:
        elements[which] = integer(rng, "<H") + integer(rng, "<H"), kind, wide, value
    parts = []
    for tag, kind, wide, value in elements:
        length = struct.pack("<2xI", len(value)) if wide else struct.pack("<H", len(value) & 0xFFFF)
        parts.append(tag + kind + length + value)
    return content[:132] + b"".join(parts)
