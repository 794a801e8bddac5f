"""Ways in which masks are stored; a new kind is one line of ``RIGHT``, ``REFUSED`` or ``MIXED``."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from helpers.picture_kinds import write_tiff

Mask = NDArray[np.bool_]
Write = Callable[[Mask, Path], object]

HEIGHT, WIDTH = 40, 48
NUMBER = 6


def lesion(number: int) -> Mask:
    """Return (h, w), bool: an ellipse that touches no border."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return ((x - 20 - number) / 11) ** 2 + ((y - 18 - number / 2) / 9) ** 2 < 1


def halves(mask: Mask) -> tuple[Mask, Mask]:
    """Split a mask into its left and its right half."""
    left = np.arange(WIDTH)[None] < np.nonzero(mask.any(0))[0].mean()
    return mask & left, mask & ~left


def scaled(top: float, dtype: DTypeLike = np.uint8, low: float = 0) -> Write:
    return lambda mask, path: Image.fromarray(np.where(mask, top, low).astype(dtype)).save(path)


def mode(name: str, **options: Any) -> Write:
    return lambda mask, path: Image.fromarray(mask.astype(np.uint8) * 255).convert(name).save(path, **options)


def white_is_zero(bits: int) -> Write:
    """Write an uncompressed TIFF whose foreground is 0."""

    def write(mask: Mask, path: Path) -> None:
        pixels = np.where(mask, 0, 2**bits - 1)
        body = np.packbits(pixels).tobytes() if bits == 1 else pixels.astype(f"<u{bits // 8}").tobytes()
        height, width = mask.shape
        tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: height, 279: len(body)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        head = struct.pack("<2sHI", b"II", 42, 8 + len(body))
        path.write_bytes(head + body + struct.pack("<H", len(tags)) + entries + bytes(4))

    return write


def palette(colours: Sequence[int], indices: tuple[int, int] = (0, 1)) -> Write:
    def write(mask: Mask, path: Path) -> None:
        image = Image.fromarray(np.where(mask, indices[1], indices[0]).astype(np.uint8))
        image.putpalette(colours)
        image.save(path)

    return write


def resized(mask: Mask, path: Path) -> None:
    """Save a mask that was drawn at four times the size and shrunk: its edge is soft."""
    large = Image.fromarray(np.kron(mask, np.ones((4, 4))).astype(np.uint8) * 255)
    large.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path)


def box_edge(mask: Mask, path: Path) -> None:
    """Save a mask whose edge is one grey, as shrinking by two leaves it."""
    grey = np.where(mask, 255, 0).astype(np.uint8)
    grey[~mask & (np.roll(mask, 1, 0) | np.roll(mask, -1, 0))] = 100
    Image.fromarray(grey).save(path)


def through_jpeg(mask: Mask, path: Path) -> None:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    image.save(path.with_suffix(".jpg"), quality=30)
    Image.open(path.with_suffix(".jpg")).save(path)
    path.with_suffix(".jpg").unlink()


def probability(top: float = 1.0, dtype: DTypeLike = np.float32) -> Write:
    def write(mask: Mask, path: Path) -> None:
        y, x = np.nonzero(mask)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        distance = ((columns - x.mean()) / np.ptp(x)) ** 2 + ((rows - y.mean()) / np.ptp(y)) ** 2
        soft = np.where(mask, np.maximum(1 - distance, 0.51), np.minimum(np.exp(-3 * distance), 0.49))
        soft[y[0], x[0]] = 1
        Image.fromarray((soft * top).astype(dtype)).save(path)

    return write


def turned(orientation: int) -> Write:
    """Save a mask lying on its side, with an orientation that sets it upright."""
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

    def write(mask: Mask, path: Path) -> None:
        image = Image.fromarray(mask.astype(np.uint8) * 255).transpose(undo[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)

    return write


def colours(first: Sequence[int], second: Sequence[int], alpha: int = 255) -> Write:
    def write(mask: Mask, path: Path) -> None:
        pixels = np.zeros((*mask.shape, 4), np.uint8)
        pixels[..., 3] = 255
        for part, colour in zip(halves(mask), (first, second), strict=True):
            pixels[part, :3] = colour
            pixels[part, 3] = alpha
        Image.fromarray(pixels if alpha < 255 else pixels[..., :3]).save(path)

    return write


def transparent(grey: int, form: str) -> Write:
    def write(mask: Mask, path: Path) -> None:
        pixels = np.full((*mask.shape, 4), grey, np.uint8)
        pixels[..., 3] = mask * 255
        Image.fromarray(pixels).convert(form).save(path)

    return write


def levels(first: int, second: int, third: int | None = None, dtype: DTypeLike = np.uint8) -> Write:
    def write(mask: Mask, path: Path) -> None:
        left, right = halves(mask)
        values = left * first + right * second
        if third is not None:
            values[:6, :6] = third
        Image.fromarray(values.astype(dtype)).save(path)

    return write


def pages(mask: Mask, path: Path) -> None:
    first, second = (Image.fromarray(half.astype(np.uint8) * 255) for half in halves(mask))
    first.save(path, save_all=True, append_images=[second])


def with_value(value: float) -> Write:
    def write(mask: Mask, path: Path) -> None:
        values = mask.astype(np.float32)
        values[0, 0] = value
        Image.fromarray(values).save(path)

    return write


def noisy(mask: Mask, path: Path) -> None:
    Image.fromarray(np.where(mask, 1, -1e-7).astype(np.float32)).save(path)


# By kind: suffix, and what writes a mask. Each command reads exactly this mask.
RIGHT: dict[str, tuple[str, Write]] = {
    "1 bit": ("png", mode("1")),
    "0 and 1": ("png", scaled(1)),
    "0 and 255": ("png", scaled(255)),
    "0 and 254": ("png", scaled(254)),
    "0 and 128": ("png", scaled(128)),
    "0 and 100": ("png", scaled(100)),
    "0 and 2": ("png", scaled(2)),
    "3 and 253": ("png", scaled(253, low=3)),
    "16 bits": ("png", scaled(65535, np.uint16)),
    "16 bits, 0 and 1": ("png", scaled(1, np.uint16)),
    "16 bits, 0 and 255": ("png", scaled(255, np.uint16)),
    "16 bits, 0 and 4095": ("png", scaled(4095, np.uint16)),
    "16 bits, TIFF": ("tif", scaled(65535, np.uint16)),
    "16 bits, big-endian": ("tif", scaled(65535, ">u2")),
    "32 bits": ("tif", scaled(255, np.int32)),
    "float": ("tif", scaled(1, np.float32)),
    "float, 1.0000001": ("tif", scaled(1.0000001, np.float32)),
    "float, 0.9999": ("tif", scaled(0.9999, np.float32)),
    "float, 1.02": ("tif", scaled(1.02, np.float32)),
    "float, 254.99998": ("tif", scaled(254.99998, np.float32)),
    "float, 255.00002": ("tif", scaled(255.00002, np.float32)),
    "float, 65535.01": ("tif", scaled(65535.01, np.float32)),
    "float, -1e-7": ("tif", noisy),
    "probability": ("tif", probability()),
    "probability of 8 bits": ("png", probability(255, np.uint8)),
    "probability of 16 bits": ("png", probability(65535, np.uint16)),
    "edge of one grey": ("png", box_edge),
    "RGB": ("png", mode("RGB")),
    "RGBA, opaque": ("png", mode("RGBA")),
    "LA, opaque": ("png", mode("LA")),
    "palette of greys": ("png", palette([0, 0, 0, 255, 255, 255])),
    "palette of greys, reversed": ("png", palette([255, 255, 255, 0, 0, 0], (1, 0))),
    "palette of black and one colour": ("png", palette([0, 0, 0, 128, 0, 0])),
    "palette of DRIVE": ("gif", palette([4, 2, 4, 252, 254, 252])),
    "white is 0, 1 bit": ("tif", white_is_zero(1)),
    "white is 0, 8 bits": ("tif", white_is_zero(8)),
    "white is 0, 16 bits": ("tif", white_is_zero(16)),
    "turned, 3": ("png", turned(3)),
    "turned, 6": ("png", turned(6)),
    "turned, 8": ("png", turned(8)),
    "turned, TIFF": ("tif", turned(3)),
}
# The same, but for some pixels at the edge.
NEARLY: dict[str, tuple[str, Write]] = {
    "soft edge": ("png", resized),
    "saved as JPEG": ("jpg", mode("L", quality=30)),
    "was JPEG": ("png", through_jpeg),
    "RGB JPEG": ("jpg", mode("RGB", quality=60)),
    "JPEG of high quality": ("jpg", mode("L", quality=98)),
    "JPEG of full quality": ("jpg", mode("L", quality=100)),
}
# By kind: suffix, what writes a mask, and what every command says.
REFUSED: dict[str, tuple[str, Write, str]] = {
    "two colours": ("png", colours((255, 0, 0), (0, 255, 0)), "it is coloured"),
    "two dark colours": ("png", colours((90, 0, 0), (0, 90, 0)), "it is coloured"),
    "one colour": ("png", colours((255, 0, 0), (255, 0, 0)), "it is coloured"),
    "palette of colours": ("png", palette([255, 0, 0, 0, 0, 255]), "it is coloured"),
    "transparent white": ("png", transparent(255, "RGBA"), "partly transparent"),
    "transparent grey": ("png", transparent(255, "LA"), "partly transparent"),
    "transparent black": ("png", transparent(0, "RGBA"), "partly transparent"),
    "half transparent": ("png", colours((255, 255, 255), (255, 255, 255), 128), "partly transparent"),
    "85 and 170": ("png", levels(85, 170), "values 0, 85, 170"),
    "128 and 255": ("png", levels(128, 255), "values 0, 128, 255"),
    "1 and 255": ("png", levels(1, 255), "values 0, 1, 255"),
    "1 and 2": ("png", levels(1, 2), "values 0, 1, 2"),
    "1, 2 and 4": ("png", levels(1, 2, 4), "values 0, 1, 2, 4"),
    "10 and 20": ("png", levels(10, 20), "values 0, 10, 20"),
    "labels of 16 bits": ("png", levels(1, 300, dtype=np.uint16), "values 0, 1, 300"),
    "labels as float": ("tif", levels(1, 2, dtype=np.float32), "values 0, 1, 2"),
    "nothing black": ("png", scaled(255, low=100), "expected 0 to 1, or 0 to 255"),
    "white is 0, float": ("tif", lambda mask, path: write_tiff(path, mask.astype(np.float32), 0), "0 is white"),
    "16 bits per colour in planes": (
        "tif",
        lambda mask, path: write_tiff(path, np.stack([mask.astype(np.uint16) * 65535] * 3, -1), 2, planar=True),
        "in planes",
    ),
    "pages": ("tif", pages, "holds 2 pictures"),
    "films": ("gif", pages, "holds 2 pictures"),
    "NaN": ("tif", with_value(np.nan), "NaN, infinite values"),
    "infinite": ("tif", with_value(np.inf), "NaN, infinite values"),
    "negative": ("tif", with_value(-1), "expected 0 to 1, or 0 to 255"),
    "no picture": ("png", lambda _, path: path.write_bytes(b"<html>403</html>"), "cannot be decoded"),
}
# By kind: suffix, how the first mask is stored, and all others.
MIXED: dict[str, tuple[str, Write, Write]] = {
    "0 and 1 among 255": ("png", scaled(1), scaled(255)),
    "255 among 0 and 1": ("png", scaled(255), scaled(1)),
    "16 bits among 255": ("png", scaled(65535, np.uint16), scaled(255)),
    "255 among 16 bits": ("png", scaled(255), scaled(65535, np.uint16)),
    "200 among 255": ("png", scaled(200), scaled(255)),
    "1 bit among 255": ("png", mode("1"), scaled(255)),
    "RGBA among 0 and 1": ("png", mode("RGBA"), scaled(1)),
    "255 among probabilities": ("png", scaled(255), probability(255, np.uint8)),
    "float among 255": ("tif", scaled(1.0000001, np.float32), scaled(255)),
}
