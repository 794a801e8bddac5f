"""LIDC-IDRI in folders of slices, in the layout of the real files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.picture_files import save

SIDE = 24
ROOT = "LIDC-IDRI-slices"
PATIENTS = [f"LIDC-IDRI-{number:04d}" for number in range(1, 11)]


def texture(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6), dtype=np.uint8)
    return np.kron(coarse, np.ones((4, 4), np.uint8))


def nodule(radius: float) -> NDArray[np.uint8]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.where((y - 12) ** 2 + (x - 12) ** 2 < radius**2, 255, 0).astype(np.uint8)


def write_slice(root: Path, patient: str, number: int, index: int, drawn: int, seed: int) -> Path:
    """Write a slice and its four masks, of which the first ``drawn`` are not empty, as in the real files."""
    folder = root / ROOT / patient / f"nodule-{number}"
    save(folder / "images" / f"slice-{index}.png", texture(seed))
    for rater in range(4):
        save(folder / f"mask-{rater}" / f"slice-{index}.png", nodule(5 + rater) * (rater < drawn))
    return folder


def write_slices(root: Path) -> None:
    """Write ten patients, each with a nodule of five slices, which 0 to 4 raters outlined."""
    for seed, patient in enumerate(PATIENTS):
        for index in range(5):
            write_slice(root, patient, 0, index, index, seed=10 * seed + index)
