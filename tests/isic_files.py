"""Tiny data sets in the official ISIC layouts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmedseg.data.isic import ISIC2016DataModule, ISIC2017DataModule, ISIC2018DataModule, ISICDataModule
from diffmedseg.errors import DataError

YEARS = [ISIC2016DataModule, ISIC2017DataModule, ISIC2018DataModule]
SPLITS = ["train", "val", "test"]
FIRST = {"training": 0, "validation": 5000, "test": 10000}  # number of the first image of a part


def disc(width, height):
    """A lesion off the middle, boolean (h, w)."""
    y, x = np.mgrid[:height, :width]
    return (x / width - 0.6) ** 2 + (y / height - 0.4) ** 2 < 0.08


def write_pair(images: Path, masks: Path, number: int, suffix="_segmentation.png"):
    """A dark lesion on bright skin as JPEG, and its mask as 8-bit PNG, in one of several sizes."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    size = [(16, 12), (40, 30), (24, 32)][number % 3]
    lesion = disc(*size)
    Image.fromarray(np.where(lesion[..., None], [90, 50, 40], [220, 170, 150]).astype(np.uint8)).save(
        images / f"ISIC_{number:07d}.jpg", quality=95
    )
    Image.fromarray(lesion.astype(np.uint8) * 255).save(masks / f"ISIC_{number:07d}{suffix}")


def write(root: Path, year: type[ISICDataModule], suffix="_segmentation.png", **counts: int):
    """Write the official layout of a year with the given number of images in each part."""
    for part, count in counts.items():
        images, masks = year.folders()[part]
        for number in range(count):
            write_pair(root / images, root / masks, FIRST[part] + number, suffix)


def folders(root, year=ISIC2018DataModule, part="training"):
    return [root / name for name in year.folders()[part]]


def ids(data, split):
    return list(data.load(split).ids)


def all_ids(data):
    return {split: ids(data, split) for split in SPLITS}


def numbered(part, count):
    return [f"ISIC_{FIRST[part] + number:07d}" for number in range(count)]


def expect(root, *parts: str, year=ISIC2018DataModule, split="train"):
    """The split cannot be read, and the message holds all the parts."""
    with pytest.raises(DataError) as caught:
        year(root).load(split)
    for part in parts:
        assert part in str(caught.value)
