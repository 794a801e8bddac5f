"""Tiny data sets in the official ISIC layouts."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.data.base import Split
from diffmedseg.data.isic import ISIC2016DataModule, ISIC2017DataModule, ISIC2018DataModule, ISICDataModule, Part
from diffmedseg.errors import DataError

YEARS = [ISIC2016DataModule, ISIC2017DataModule, ISIC2018DataModule]
SPLITS: list[Split] = ["train", "val", "test"]
FIRST = {"training": 0, "validation": 5000, "test": 10000}  # number of the first image of a part


def disc(width: int, height: int) -> NDArray[np.bool_]:
    """A lesion off the middle, boolean (h, w)."""
    y, x = np.mgrid[:height, :width]
    return (x / width - 0.6) ** 2 + (y / height - 0.4) ** 2 < 0.08


def write_pair(images: Path, masks: Path, number: int, suffix: str = "_segmentation.png") -> None:
    """A dark lesion on bright skin as JPEG, and its mask as 8-bit PNG, in one of several sizes."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    size = [(16, 12), (40, 30), (24, 32)][number % 3]
    lesion = disc(*size)
    Image.fromarray(np.where(lesion[..., None], [90, 50, 40], [220, 170, 150]).astype(np.uint8)).save(
        images / f"ISIC_{number:07d}.jpg", quality=95
    )
    Image.fromarray(lesion.astype(np.uint8) * 255).save(masks / f"ISIC_{number:07d}{suffix}")


def write(root: Path, year: type[ISICDataModule], suffix: str = "_segmentation.png", **counts: int) -> None:
    """Write the official layout of a year with the given number of images in each part."""
    assert counts.keys() <= year.folders().keys()
    for part, (images, masks) in year.folders().items():
        for number in range(counts.get(part, 0)):
            write_pair(root / images, root / masks, FIRST[part] + number, suffix)


def folders(root: Path, year: type[ISICDataModule] = ISIC2018DataModule, part: Part = "training") -> list[Path]:
    return [root / name for name in year.folders()[part]]


def ids(data: ISICDataModule, split: Split) -> list[str]:
    return list(data.load(split).ids)


def all_ids(data: ISICDataModule) -> dict[Split, list[str]]:
    return {split: ids(data, split) for split in SPLITS}


def numbered(part: str, count: int) -> list[str]:
    return [f"ISIC_{FIRST[part] + number:07d}" for number in range(count)]


def expect(root: Path, *parts: str, year: type[ISICDataModule] = ISIC2018DataModule, split: Split = "train") -> None:
    """The split cannot be read, and the message holds all the parts."""
    with pytest.raises(DataError) as caught:
        year(root).load(split)
    for part in parts:
        assert part in str(caught.value)
