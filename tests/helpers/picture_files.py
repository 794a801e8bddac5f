"""Pictures and masks on disk."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.experiments import data_config

SIZE = (24, 30)


def photo(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(30, 220, (*SIZE, 3), dtype=np.uint8)


def lesion(seed: int, scale: float = 1.0) -> NDArray[np.bool_]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    middle = np.random.default_rng(seed).uniform(9, 15, 2)
    return (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < (6 * scale) ** 2


def save(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_mask(path: Path, mask: NDArray[Any]) -> None:
    save(path, mask.astype(np.uint8) * 255)


def yaml_module(name: str, root: Path, **options: Any) -> SegmentationDataModule:
    config = data_config(name)
    config["init_args"] |= {"root": str(root), "image_size": 16} | options
    return build_data(config)


def write_refuge(root: Path, suffix: str = "bmp") -> dict[str, str]:
    """Cup 0, rim 128, background 255, as RGB; three layouts in one data set."""
    places = {
        "Training400/Glaucoma/g0001": "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001",
        "Training400/Non-Glaucoma/n0001": "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0001",
        "Training400/Non-Glaucoma/n0002": "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0002",
        "REFUGE-Validation400/V0001": "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001",
        "Test400/T0001": "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001",
        "Test400/T0002": "REFUGE-Test-GT/Disc_Cup_Masks/N/T0002",
    }
    for number, (image, mask) in enumerate(places.items()):
        coded = np.full((*SIZE, 3), 255, np.uint8)
        coded[lesion(number)], coded[lesion(number, 0.5)] = 128, 0
        save(root / f"{image}.jpg", photo(number))
        save(root / f"{mask}.{suffix}", coded)
    return places
