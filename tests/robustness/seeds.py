"""Small valid files in the formats that users have, as bytes.

They are written without SimpleITK: its threads would not survive the fork of the processes that read.
"""

import gzip
import io
import json
import pickle
import struct
from collections.abc import Iterable

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from robustness.worker import Files

_SIZE = (8, 9)
_RNG = np.random.default_rng(0)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image as a file of a format."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _colour() -> Image.Image:
    return Image.fromarray(_RNG.integers(0, 256, (*_SIZE, 3), dtype=np.uint8))


def _binary() -> np.ndarray:
    return (np.mgrid[: _SIZE[0], : _SIZE[1]].sum(0) % 7 < 3).astype(np.uint8)


def pictures() -> list[Files]:
    """PNG, JPEG, TIFF and others in several modes."""
    colour, exif = _colour(), Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(_RNG.integers(0, 65536, _SIZE, dtype=np.uint16))
    floats = Image.fromarray(_RNG.random(_SIZE, dtype=np.float32))
    palette, indices = colour.quantize(16), colour.quantize(16)
    palette.info["transparency"] = 3
    found = {f"{mode}.png": saved(colour.convert(mode), "PNG") for mode in ("RGB", "L", "1", "RGBA", "LA")}
    found |= {
        "palette.png": saved(palette, "PNG"),
        "deep.png": saved(deep, "PNG"),
        "exif.png": saved(colour, "PNG", exif=exif),
    }
    found |= {
        "p.jpg": saved(colour, "JPEG"),
        "exif.jpg": saved(colour, "JPEG", exif=exif),
        "l.jpg": saved(colour.convert("L"), "JPEG"),
    }
    found |= {
        "progressive.jpg": saved(colour, "JPEG", progressive=True),
        "cmyk.jpg": saved(colour.convert("CMYK"), "JPEG"),
    }
    found |= {"two.jpg": saved(colour, "MPO", save_all=True, append_images=[colour])}
    found |= {
        f"{one or 'raw'}.tif": saved(colour, "TIFF", compression=one)
        for one in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")
    }
    found |= {
        "deep.tif": saved(deep, "TIFF"),
        "floats.tif": saved(floats, "TIFF"),
        "bits.tif": saved(colour.convert("1"), "TIFF"),
    }
    found |= {
        "white.tif": saved(colour.convert("1"), "TIFF", tiffinfo=_white_is_zero()),
        "pages.tif": saved(colour, "TIFF", save_all=True, append_images=[colour]),
    }
    found |= {
        "p.bmp": saved(colour, "BMP"),
        "p.gif": saved(indices, "GIF"),
        "p.webp": saved(colour, "WEBP"),
        "lossless.webp": saved(colour, "WEBP", lossless=True),
    }
    found |= {"p.ppm": saved(colour, "PPM"), "p.pgm": saved(deep, "PPM"), "p.jp2": saved(colour, "JPEG2000")}
    return [{name: content} for name, content in found.items()]


def _white_is_zero() -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2()
    tags[262] = 0
    return tags


def masks() -> list[Files]:
    """Masks in the ways that tools write them."""
    mask = _binary()
    white = Image.fromarray(mask * 255)
    found = {
        "white.png": saved(white, "PNG"),
        "ones.png": saved(Image.fromarray(mask), "PNG"),
        "bits.png": saved(white.convert("1"), "PNG"),
    }
    found |= {"rgb.png": saved(white.convert("RGB"), "PNG"), "rgba.png": saved(white.convert("RGBA"), "PNG")}
    found |= {
        "deep.png": saved(Image.fromarray(mask.astype(np.uint16) * 65535), "PNG"),
        "palette.png": saved(white.quantize(2), "PNG"),
    }
    found |= {
        "soft.tif": saved(Image.fromarray(mask.astype(np.float32)), "TIFF"),
        "lossy.jpg": saved(white, "JPEG"),
        "p.bmp": saved(white, "BMP"),
        "p.gif": saved(white, "GIF"),
    }
    return [{name: content} for name, content in found.items()]


def nifti(
    values: np.ndarray, sform: bool = True, qform: bool = True, order: str = "<", two_files: bool = False
) -> bytes:
    """Return a NIfTI-1 file; the first axis of the values is the last of the file."""
    header, kind = bytearray(348), {"u1": (2, 8), "i2": (4, 16), "i4": (8, 32), "f4": (16, 32), "f8": (64, 64)}
    code, bits = kind[values.dtype.str[1:]]
    dims = [values.ndim, *values.shape[::-1], *[1] * (7 - values.ndim)]
    for at, form, *fields in (
        (0, "i", 348),
        (40, "8h", *dims),
        (70, "2h", code, bits),
        (76, "8f", 1, 1, 1, 2, 1, 0, 0, 0),
        (108, "3f", 352, 1, 0),
        (123, "B", 10),
        (252, "2h", int(qform), int(sform)),
        (256, "6f", 0, 0, 0, -4, -4, -4),
        (280, "12f", 1, 0, 0, -4, 0, 1, 0, -4, 0, 0, 2, -4),
    ):
        struct.pack_into(order + form, header, at, *fields)
    header[344:348] = b"n+1\0"
    return bytes(header) + bytes(4) + values.astype(values.dtype.newbyteorder(order)).tobytes()


def _volume(kind: str = "f4") -> np.ndarray:
    return (_RNG.random((4, 4, 4)) * 100).astype(kind)


def outlines() -> list[Files]:
    """XML files of outlines as DDTI has them."""
    points = [{"x": x, "y": y} for x, y in ((4, 4), (15, 5), (18, 14), (6, 15))]
    svg = json.dumps([{"points": points, "annotation": {}, "regionType": "freehand"}])
    marks = f"<mark><image>1</image><svg>{svg}</svg></mark><mark><image>2</image><svg></svg></mark>"
    text = f'<?xml version="1.0" encoding="utf-8"?><case><number>1</number><tirads>3</tirads>{marks}</case>'
    return [{"1.xml": text.encode()}]


def drawn() -> list[Files]:
    """A picture, and copies with two outlines in it."""
    y, x = np.mgrid[:40, :40]
    distance = np.hypot(y - 20, x - 20)
    plain = Image.fromarray(_RNG.integers(120, 140, (40, 40, 3), dtype=np.uint8))
    copy = np.array(plain)
    copy[(abs(distance - 15) < 1.2) | (abs(distance - 7) < 1.2)] = 0
    prime = saved(plain, "PNG")
    return [
        {name: saved(Image.fromarray(copy), kind), "prime.png": prime}
        for name, kind in (("1.png", "PNG"), ("1.tif", "TIFF"))
    ]


def slices() -> list[Files]:
    """NIfTI files of a single slice."""
    values = _RNG.random((1, 9, 8)).astype("f4")
    return [{"image.nii": nifti(values)}, {"image.nii.gz": gzip.compress(nifti(values), 1, mtime=0)}]


def agreement() -> list[Files]:
    """Maps of how many of four experts agree."""
    levels = np.array([0, 64, 128, 191, 255], np.uint8)[_RNG.integers(0, 5, _SIZE)]
    return [{"map.png": saved(Image.fromarray(levels), "PNG")}]


def lists() -> list[Files]:
    """Lists of the cases of splits."""
    return [
        {"fold.json": json.dumps(found).encode()} for found in ({"train": [0, 1], "val": [2]}, {"train": ["0.jpg"]})
    ]


def patients() -> list[Files]:
    """Tables of patients."""
    return [{"table.csv": b"isic_id,patient_id\nISIC_0000000,IP_1\nISIC_0000001,\n"}]


def niftis() -> list[Files]:
    """NIfTI of several types, plain and compressed."""
    volumes = [nifti(_volume(kind)) for kind in ("u1", "i2", "f4", "f8")]
    volumes += [nifti(_volume(), sform=False), nifti(_volume(), qform=False), nifti(_volume(), False, False)]
    volumes += [nifti(_volume("i2"), order=">"), nifti((_RNG.random((2, 4, 4, 4)) * 9).astype("f4"))]
    found = [{f"{n}.nii": content} for n, content in enumerate(volumes)]
    return found + [{f"{n}.nii.gz": gzip.compress(content, 1, mtime=0)} for n, content in enumerate(volumes)]


def volume_masks() -> list[Files]:
    """Masks as volumes."""
    mask = (_volume() > 50).astype(np.uint8)
    plain = nifti(mask)
    return [
        {"m.nii": plain},
        {"m.nii.gz": gzip.compress(plain, 1, mtime=0)},
        {"m.nii": nifti(mask.astype("f4") * 0.999)},
    ]


def _meta_image(compressed: bool) -> bytes:
    values = _volume("i2").tobytes()
    data = __import__("zlib").compress(values) if compressed else values
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [f"CompressedData = {compressed}", *([f"CompressedDataSize = {len(data)}"] if compressed else [])]
    lines += [
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = -4 -4 -4",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
    ]
    lines += ["ElementSpacing = 1 1 2", "DimSize = 4 4 4", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"]
    return "\n".join([*lines, ""]).encode() + data


def _nrrd(compressed: bool) -> bytes:
    values = _volume("i2").tobytes()
    lines = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 4 4 4"]
    lines += ["space directions: (1,0,0) (0,1,0) (0,0,2)", "kinds: domain domain domain", "endian: little"]
    lines += [f"encoding: {'gzip' if compressed else 'raw'}", "space origin: (-4,-4,-4)", "", ""]
    return "\n".join(lines).encode() + (gzip.compress(values, mtime=0) if compressed else values)


def meta_images() -> list[Files]:
    """MHA and NRRD, raw and compressed."""
    return [{f"v.{kind}": make(one)} for kind, make in (("mha", _meta_image), ("nrrd", _nrrd)) for one in (False, True)]


def _slice(number: int) -> bytes:
    """Return a DICOM slice, little endian with explicit types."""
    study, pixels = "1.2.826.0.1.3680043.8.498.1", _RNG.integers(0, 900, (4, 4), dtype=np.uint16)

    def element(group: int, tag: int, kind: str, value: bytes | str | int) -> bytes:
        data = (
            struct.pack("<H", value) if isinstance(value, int) else value.encode() if isinstance(value, str) else value
        )
        data += (b"\0" if kind in ("UI", "OB") else b" ") * (len(data) % 2)
        length = struct.pack("<2xI", len(data)) if kind in ("OW", "OB") else struct.pack("<H", len(data))
        return struct.pack("<2H", group, tag) + kind.encode() + length + data

    storage, syntax, own = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1", f"{study}.{number + 1}"
    meta = element(2, 2, "UI", storage) + element(2, 3, "UI", own) + element(2, 0x10, "UI", syntax)
    meta = element(2, 1, "OB", b"\0\1") + meta + element(2, 0x12, "UI", study)
    body = [
        (8, 0x16, "UI", storage),
        (8, 0x18, "UI", own),
        (8, 0x60, "CS", "MR"),
        (0x10, 0x10, "PN", "A^B"),
        (0x10, 0x20, "LO", "P1"),
    ]
    body += [
        (0x18, 0x50, "DS", "2"),
        (0x20, 0xD, "UI", study),
        (0x20, 0xE, "UI", study + ".9"),
        (0x20, 0x11, "IS", "1"),
        (0x20, 0x13, "IS", str(number + 1)),
    ]
    body += [
        (0x20, 0x32, "DS", f"0\\0\\{2 * number}"),
        (0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"),
        (0x28, 2, "US", 1),
        (0x28, 4, "CS", "MONOCHROME2"),
    ]
    body += [
        (0x28, 0x10, "US", 4),
        (0x28, 0x11, "US", 4),
        (0x28, 0x30, "DS", "1\\1"),
        (0x28, 0x100, "US", 16),
        (0x28, 0x101, "US", 16),
        (0x28, 0x102, "US", 15),
    ]
    body += [
        (0x28, 0x103, "US", 0),
        (0x28, 0x1052, "DS", "0"),
        (0x28, 0x1053, "DS", "1"),
        (0x7FE0, 0x10, "OW", pixels.tobytes()),
    ]
    header = struct.pack("<2H2sHI", 2, 0, b"UL", 4, len(meta))
    return bytes(128) + b"DICM" + header + meta + b"".join(element(*one) for one in body)


def dicom_series() -> list[Files]:
    """A series of three slices, of which one is mutated, and one of a single slice."""
    slices = [_slice(number) for number in range(3)]
    return [{"1.dcm": slices[1], "0.dcm": slices[0], "2.dcm": slices[2]}, {"0.dcm": slices[0]}]


def lidc_pickles() -> list[Files]:
    """The pickle of LIDC slices, as Python 2 and Python 3 write it."""
    image, mask = _RNG.random(_SIZE), _binary().astype(bool)
    slices = {f"s{n}": {"image": image, "masks": [mask] * 4, "series_uid": "1.2"} for n in range(2)}
    return [{"data_lidc.pickle": pickle.dumps(slices, protocol)} for protocol in (2, 4)]


def npy(values: np.ndarray) -> bytes:
    """Return an array as a file of numpy."""
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def each_first(files: Files) -> list[Files]:
    """Return the same files once for each, which comes first: the one that is mutated."""
    return [{name: files[name], **files} for name in files]


def as_json(content: object) -> bytes:
    """Return a JSON file."""
    return json.dumps(content, indent=1).encode()


def lines(rows: Iterable[str]) -> bytes:
    """Return a text file of lines."""
    return ("\n".join(rows) + "\n").encode()
