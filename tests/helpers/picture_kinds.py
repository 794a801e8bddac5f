"""Pictures of every kind that a file can be: how each is written, and what has to be read from it."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from helpers.dark_disc import picture

COLOUR = np.asarray(picture())
GREY = np.asarray(picture().convert("L"))
UPRIGHT = (2, 3, 4, 5, 6, 7, 8)  # orientations that are not

Write = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        name: What it is called; begins with the suffix of its files.
        write: Writes one to a path.
        levels: What has to be read, (h, w) or (h, w, 3), uint8; None where it has to be refused.
        refusal: Regular expression of the refusal; empty where there is none.
        value_range: The range that the command is given.
        notes: Kinds of the notes that have to be given.
        off: How much the mean of what is read may be off.
    """

    name: str
    write: Write
    levels: NDArray[np.uint8] | None
    refusal: str = ""
    value_range: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    off: float = 0.6

    @property
    def suffix(self) -> str:
        return self.name.split()[0]


def packed(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Keep the upper bits of grey levels, and pack them as PNG and TIFF do."""
    ones = (levels[..., None] >> np.arange(7, 7 - bits, -1)) & 1
    return np.packbits(ones.reshape(len(levels), -1), axis=1)


def coarse(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return what is left of grey levels when their upper bits are kept."""
    return (levels >> (8 - bits)).astype(np.uint8) * (255 // (2**bits - 1))


def alpha(levels: NDArray[np.generic], top: int, clear: bool = True) -> NDArray[np.generic]:
    """Add a channel of transparency; the left third is clear, or nothing is."""
    opaque = np.full(levels.shape[:2], top, levels.dtype)
    opaque[:, : levels.shape[1] // 3 * clear] = 0
    return np.dstack([levels, opaque])


def write_png(
    path: Path,
    levels: NDArray[Any],
    bits: int | None = None,
    width: int | None = None,
    late: bytes = b"",
    height: int | None = None,
) -> None:
    """Write (h, w), (h, w, 2 to 4) of 8 or 16 bits, or rows of packed bits, and an EXIF chunk behind the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = 1 if levels.ndim == 2 else levels.shape[2]
    bits = bits or 8 * levels.dtype.itemsize
    lines = b"".join(b"\0" + line.astype(f">u{levels.dtype.itemsize}").tobytes() for line in levels)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width or levels.shape[1], height or len(levels), bits, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines))]
    chunks += [chunk(b"eXIf", late)] if late else []
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b""))


def write_tiff(
    path: Path,
    levels: NDArray[Any],
    photometric: int = 1,
    order: Literal["<", ">"] = "<",
    planar: bool = False,
    bits: int | None = None,
    width: int | None = None,
    extra: Sequence[int] = (),
) -> None:
    """Write (h, w) or (h, w, channels) of any type, or rows of packed bits, in one strip (or one a plane)."""
    height, channels = len(levels), 1 if levels.ndim == 2 else levels.shape[2]
    bits = bits or 8 * levels.dtype.itemsize
    planes: Sequence[NDArray[Any]] = list(np.moveaxis(levels, -1, 0)) if planar else [levels]
    strips = [plane.astype(levels.dtype.newbyteorder(order)).tobytes() for plane in planes]
    places = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags = {
        256: [width or levels.shape[1]], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric],
        273: places, 277: [channels], 278: [height], 279: list(map(len, strips)), 284: [1 + planar],
        339: [{"u": 1, "i": 2, "f": 3}[levels.dtype.kind]] * channels,
    } | ({338: list(extra)} if extra else {})  # fmt: skip
    start = 8 + sum(map(len, strips))
    behind, entries = start + 2 + 12 * len(tags) + 4, b""
    content = b""
    for tag, numbers in sorted(tags.items()):
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            data, content = struct.pack(f"{order}I", behind + len(content)), content + data
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + data
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    path.write_bytes(head + b"".join(strips) + directory + content)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x112] = orientation
    return found


def pillow_reads_its_own(mode: str) -> bool:
    """Whether Pillow reads a TIFF that it wrote; 12.3.0 does not read YCbCr."""
    written = io.BytesIO()
    Image.fromarray(COLOUR).convert(mode).save(written, "TIFF")
    try:
        Image.open(written).load()
    except OSError:
        return False
    return True


def turned(levels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return what a viewer shows of levels that are stored with an orientation."""
    if orientation >= 5:
        levels = levels.swapaxes(0, 1)
    flips: dict[int, tuple[int, ...]] = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(levels, flips.get(orientation, ()))


def cut(levels: NDArray[Any], share: float, **options: Any) -> Write:
    """Write a file that ends too early."""

    def write(path: Path) -> None:
        Image.fromarray(levels).save(path, **options)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return write


def several(**options: Any) -> Write:
    return lambda path: Image.fromarray(COLOUR).save(path, save_all=True, append_images=[picture(left=9)], **options)


def saved(mode: str = "RGB", levels: NDArray[Any] = COLOUR, **options: Any) -> Write:
    return lambda path: Image.fromarray(levels).convert(mode).save(path, **options)


def palette_with_a_clear_colour(path: Path) -> None:
    image = Image.fromarray(COLOUR).quantize(8)
    image.save(path, transparency=image.getpixel((0, 0)))


def apng(path: Path) -> None:
    Image.fromarray(COLOUR).save(path, save_all=True, append_images=[picture(left=9)], default_image=True)


def nifti(path: Path) -> None:
    path.write_bytes(struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(100))


NOISE = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
WIDE, WIDE_COLOUR = GREY.astype(np.uint16) * 257, COLOUR.astype(np.uint16) * 257
TWELVE, FLOAT = GREY.astype(np.uint16) * 16, GREY.astype(np.float32) / 255
RANGE = (0, 4095)
UNKNOWN, DAMAGED, PAGES = "its values of black and white are unknown", "cannot be decoded", "holds 2 pictures"
DARK, CLEAR, TURNED = ("dark picture",), ("transparent picture",), ("turned picture",)


#: By suffix, how to save with the least loss.
WHOLE: dict[str, dict[str, Any]] = {"jpg": {"quality": 98}, "png": {}, "webp": {"lossless": True}, "tif": {}}


def bits_of(suffix: str, write: Callable[..., None], whites: bool) -> Iterator[Kind]:
    for bits in (1, 2, 4):
        small = packed(GREY, bits)
        yield Kind(f"{suffix} {bits} bits", partial(write, levels=small, bits=bits, width=90), coarse(GREY, bits))
        if whites:
            yield Kind(
                f"{suffix} {bits} bits, white is zero",
                partial(write, levels=small, photometric=0, bits=bits, width=90),
                255 - coarse(GREY, bits),
            )


KINDS = [
    *bits_of("png", write_png, False),
    *bits_of("tif", write_tiff, True),
    # Grey.
    Kind("png grey", saved("L"), GREY),
    Kind("jpg grey", saved("L", quality=98), GREY),
    Kind("tif grey", lambda p: write_tiff(p, GREY), GREY),
    Kind("tif grey, white is zero", lambda p: write_tiff(p, GREY, 0), 255 - GREY),
    Kind("tif grey, signed", lambda p: write_tiff(p, GREY.view(np.int8)), None, rf"from -\d+ to \d+.*{UNKNOWN}"),
    Kind("tif grey, signed, range", lambda p: write_tiff(p, (GREY // 2).astype(np.int8)), GREY, "", (0, 127)),
    # 16 bits.
    Kind("png 16 bits", lambda p: write_png(p, WIDE), GREY),
    Kind("tif 16 bits", lambda p: write_tiff(p, WIDE), GREY),
    Kind("tif 16 bits, big-endian", lambda p: write_tiff(p, WIDE, order=">"), GREY),
    Kind("tif 16 bits, deflated", lambda p: Image.fromarray(WIDE).save(p, compression="tiff_deflate"), GREY),
    Kind("tif 16 bits, white is zero", lambda p: write_tiff(p, WIDE, 0), 255 - GREY),
    Kind("tif 16 bits, big-endian, white is zero", lambda p: write_tiff(p, WIDE, 0, ">"), None, DAMAGED),
    Kind("tif 16 bits, signed", lambda p: write_tiff(p, WIDE.astype(np.int16)), None, UNKNOWN),
    Kind("jp2 16 bits", lambda p: Image.fromarray(WIDE).save(p), GREY),
    Kind("pgm 16 bits", lambda p: p.write_bytes(b"P5 90 60 65535\n" + WIDE.astype(">u2").tobytes()), GREY),
    Kind("pgm 12 bits", lambda p: p.write_bytes(b"P5 90 60 4095\n" + TWELVE.astype(">u2").tobytes()), GREY, off=1),
    Kind("png 12 bits in 16", lambda p: write_png(p, TWELVE), GREY // 16, notes=DARK),
    Kind("tif 12 bits in 16", lambda p: write_tiff(p, TWELVE), GREY // 16, notes=DARK),
    Kind("tif 12 bits in 16, white is zero", lambda p: write_tiff(p, TWELVE, 0), 255 - GREY // 16, notes=DARK),
    Kind("png 12 bits, range", lambda p: write_png(p, TWELVE), GREY, "", RANGE, off=1),
    Kind("tif 12 bits, range, white is zero", lambda p: write_tiff(p, TWELVE, 0), 255 - GREY, "", RANGE, off=1),
    Kind("png 12 bits, meant so", lambda p: write_png(p, TWELVE), GREY // 16, "", (0, 65535)),
    # 16 bits per colour, of which Pillow keeps 8.
    Kind("png 16 bits and alpha", lambda p: write_png(p, alpha(WIDE, 65535)), GREY, notes=CLEAR),
    Kind("png 16 bits per colour", lambda p: write_png(p, WIDE_COLOUR), COLOUR),
    Kind("png 16 bits per colour and alpha", lambda p: write_png(p, alpha(WIDE_COLOUR, 65535)), COLOUR, notes=CLEAR),
    Kind("tif 16 bits per colour", lambda p: write_tiff(p, WIDE_COLOUR, 2), COLOUR),
    Kind("tif 16 bits per colour, big-endian", lambda p: write_tiff(p, WIDE_COLOUR, 2, ">"), COLOUR),
    Kind("tif 16 bits per colour in planes", lambda p: write_tiff(p, WIDE_COLOUR, 2, planar=True), None, "in planes"),
    Kind("tif 16 bits of CMYK", lambda p: write_tiff(p, 65535 - alpha(WIDE_COLOUR, 65535, False), 5), COLOUR),
    Kind("ppm 16 bits", lambda p: p.write_bytes(b"P6 90 60 65535\n" + WIDE_COLOUR.astype(">u2").tobytes()), COLOUR),
    Kind("png 12 bits per colour", lambda p: write_png(p, WIDE_COLOUR // 16), COLOUR // 16, notes=DARK),
    Kind("png 12 bits and alpha", lambda p: write_png(p, alpha(TWELVE, 65535, False)), GREY // 16, notes=DARK),
    Kind("tif 12 bits per colour", lambda p: write_tiff(p, WIDE_COLOUR // 16, 2), COLOUR // 16, notes=DARK),
    Kind("png 16 bits per colour, range", lambda p: write_png(p, WIDE_COLOUR), None, "range cannot apply", RANGE),
    # More than 16 bits.
    Kind(
        "tif 32 bits", lambda p: write_tiff(p, GREY.astype(np.int32) * 9), None, rf"to {9 * int(GREY[0, 0])}.*{UNKNOWN}"
    ),
    Kind("tif 32 bits, range", lambda p: write_tiff(p, GREY.astype(np.int32) - 99), GREY, "", (-99, 156)),
    Kind("tif 32 bits, unsigned", lambda p: write_tiff(p, GREY.astype(np.uint32) << 24), GREY, "", (0, 255 * 2**24)),
    Kind("tif float", lambda p: write_tiff(p, FLOAT), None, rf"from 0\.\d+ to 0\.\d+.*{UNKNOWN}"),
    Kind("tif float, range", lambda p: write_tiff(p, FLOAT), GREY, "", (0, 1)),
    Kind("tif float, range, white is zero", lambda p: write_tiff(p, FLOAT, 0), 255 - GREY, "", (0, 1)),
    Kind("tif float, no number", lambda p: write_tiff(p, FLOAT * np.nan), None, "it holds only NaN"),
    Kind("tif float of 64 bits", lambda p: write_tiff(p, FLOAT.astype(np.float64)), None, DAMAGED),
    # Colour modes.
    *(Kind(f"{suffix} colour", saved(), COLOUR) for suffix in ("png", "bmp", "ppm", "tga", "tif", "pcx")),
    Kind("jpg colour", saved(quality=98), COLOUR, off=2),
    Kind("webp colour", saved(lossless=True), COLOUR),
    Kind("jp2 colour", saved(), COLOUR),
    Kind("png palette", lambda p: Image.fromarray(COLOUR).quantize(8).save(p), COLOUR),
    Kind("gif palette", lambda p: Image.fromarray(COLOUR).quantize(8).save(p), COLOUR),
    Kind("png palette with a clear colour", palette_with_a_clear_colour, COLOUR, notes=CLEAR),
    Kind("png grey with a clear level", saved("L", transparency=int(GREY[0, 0])), GREY, notes=CLEAR),
    Kind("png colour with a clear colour", saved(transparency=(230, 220, 240)), COLOUR, notes=CLEAR),
    Kind("png grey and alpha", lambda p: write_png(p, alpha(GREY, 255)), GREY, notes=CLEAR),
    Kind("png colour and alpha", lambda p: write_png(p, alpha(COLOUR, 255)), COLOUR, notes=CLEAR),
    Kind("png colour, nothing clear", lambda p: write_png(p, alpha(COLOUR, 255, False)), COLOUR),
    Kind("tif colour and alpha", lambda p: write_tiff(p, alpha(COLOUR, 255), 2, extra=(2,)), COLOUR, notes=CLEAR),
    Kind("tif colour in planes", lambda p: write_tiff(p, COLOUR, 2, planar=True), COLOUR),
    *(Kind(f"{suffix} CMYK", saved("CMYK"), COLOUR, off=3) for suffix in ("jpg", "tif")),
    *([Kind("tif YCbCr", saved("YCbCr"), COLOUR, off=2)] if pillow_reads_its_own("YCbCr") else []),
    Kind("tif Lab", saved("LAB"), COLOUR, off=2),
    # Orientation.
    *(
        Kind(f"{suffix} orientation {o}", saved(exif=exif(o), **options), turned(COLOUR, o), notes=TURNED, off=3)
        for o in UPRIGHT
        for suffix, options in WHOLE.items()
    ),
    *(
        Kind(
            f"png orientation {o} behind the pixels",
            partial(write_png, levels=COLOUR, late=exif(o).tobytes()[6:]),
            turned(COLOUR, o),
            notes=TURNED,
            off=3,
        )
        for o in (3, 6)
    ),
    *(
        Kind(
            f"tif of mode {mode}, orientation {o}",
            saved(mode, WIDE if mode == "I;16" else COLOUR, exif=exif(o)),
            turned(COLOUR if mode in ("RGBA", "CMYK") else GREY, o),
            notes=TURNED,
            off=3,
        )
        for mode in ("L", "I;16", "RGBA", "CMYK")  # files of these Pillow maps into memory
        for o in (3, 6)
    ),
    Kind("jpg orientation 77", saved(quality=98, exif=exif(77)), COLOUR, off=2),
    # Several pictures.
    *(Kind(f"{suffix} of several", several(), None, PAGES) for suffix in ("tif", "gif", "webp", "png")),
    Kind("png of several, with a picture for others", apng, None, PAGES),
    Kind("jpg with a preview", several(format="MPO", quality=98), COLOUR, off=2),
    # Damage.
    *(
        Kind(f"{suffix} cut short {share}", cut(NOISE, share), None, DAMAGED)
        for suffix in ("jpg", "png", "tif", "gif", "webp", "bmp", "ppm", "jp2", "tga", "pcx")
        for share in (0.5, 0.9, 0.99)
    ),
    Kind("png of too few rows", lambda p: write_png(p, COLOUR, height=len(COLOUR) + 1), None, "it is cut short"),
    Kind("jpg cut short, progressive", cut(NOISE, 0.9, progressive=True), None, DAMAGED),
    Kind("tif cut short, deflated", cut(NOISE, 0.9, compression="tiff_deflate"), None, DAMAGED),
    Kind("png empty", Path.touch, None, DAMAGED),
    Kind("jpg of HTML", lambda p: p.write_text("<html>403</html>"), None, DAMAGED),
    Kind("png link that leads nowhere", lambda p: p.symlink_to("gone.png"), None, "a broken link"),
]


def image_of(kind: Kind, folder: Path) -> Path:
    path = folder / f"a.{kind.suffix}"
    kind.write(path)
    return path
