"""Measurements of training cases, from which settings are planned. Values marked "ours" are our choice."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.native import Native
from diffmedseg.errors import DataError
from diffmedseg.reading.grid import Grid
from diffmedseg.reading.windows import CropWindow, square_window
from diffmedseg.segmentation import majority

#: Longer sides of the grids that are looked at, in pixels.
SIDES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
#: In pixels: every network's grid is a multiple of this.
STEP = 32
#: Smaller parts of a mask, in pixels or voxels, count as slips of the hand; ours.
SPECK = 4
_SQUARE = 0.2  # images whose sides differ by less get a square grid, as in the yaml files; ours


@dataclass
class Measured:
    """Measurements of some training cases.

    Attributes:
        title: Title of the data set.
        cases: Number of cases.
        sizes: (height, width) of each image, in pixels.
        spacings: Distance of slices, rows and columns in mm, of each volume.
        depths: Slices of each volume.
        intensities: 1st, 50th and 99th percentile of the stored values of each case, by channel.
        lesions: Area in pixels, or volume in voxels, of each connected part of each region, without specks.
        specks: Number of parts smaller than 4 pixels or voxels.
        thickness: Number of slices of each lesion of a volume.
        lost: Number of lesions that have no pixel on a grid, by the longer side of the grid.
        lost_in_margin: The same for slices of volumes with a margin of background (``square_pixels``).
    """

    title: str
    cases: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    spacings: list[tuple[float, float, float]] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    intensities: dict[str, list[list[float]]] = field(default_factory=dict)
    lesions: list[int] = field(default_factory=list)
    specks: int = 0
    thickness: list[int] = field(default_factory=list)
    lost: dict[int, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    lost_in_margin: dict[int, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))

    @property
    def size(self) -> tuple[int, int]:
        """Median height and width."""
        height, width = np.median(np.array(self.sizes), 0).tolist()
        return round(height), round(width)


def grid_of(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the grid for images of a size; ``side`` is its longer side in pixels. Sides are multiples of 32 px."""
    height, width = size
    if abs(height - width) < _SQUARE * max(height, width):
        return side, side
    shorter = max(round(side * min(size) / max(size) / STEP), 2) * STEP
    return (side, shorter) if height > width else (shorter, side)


def measure(data: SegmentationDataModule, num_cases: int = 40) -> Measured:
    """Measure training cases at native resolution.

    Args:
        data: The data set.
        num_cases: Number of cases, spread over the training set.

    Raises:
        DataError: If a case cannot be read, or the data set has no files.
    """
    data.prepare_data()
    measured = Measured(data.info.title)
    total = min(num_cases, len(data.split_cases("train")))
    for case in track(data.native_cases("train", num_cases), f"Measuring {measured.title}", total, disable=total < 10):
        _measure_image(case, data.info.channels, measured)
        masks = majority(torch.from_numpy(case.masks)).numpy()
        for mask in masks:
            _measure_lesions(mask if case.grid is not None else mask[None], case.grid, measured)
    if not measured.cases:
        raise DataError(f"{measured.title} has no training cases: there is nothing to measure.")
    return measured


def _measure_image(case: Native, channels: tuple[str, ...], measured: Measured) -> None:
    measured.cases += 1
    height, width = case.image.shape[-2:]
    measured.sizes.append((int(height), int(width)))
    if case.grid is not None:
        column, row, depth = case.grid.spacing.tolist()
        measured.spacings.append((depth, row, column))
        measured.depths.append(int(case.image.shape[1]))
    for name, channel in zip(channels, case.image, strict=True):
        measured.intensities.setdefault(name, []).append(np.percentile(channel[..., ::2, ::2], (1, 50, 99)).tolist())


def _measure_lesions(mask: NDArray[np.uint8], position: Grid | None, measured: Measured) -> None:
    """Measure the connected parts of a mask (D, h, w), and count the parts that have no pixel on each grid.

    Args:
        mask: The mask.
        position: Position of the voxels of a volume; None for a picture.
        measured: The measurements to add to.
    """
    from scipy.ndimage import find_objects, label

    parts, _ = label(mask)
    areas = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero(areas >= SPECK) + 1
    measured.specks += len(areas) - len(large)
    measured.lesions += areas[large - 1].tolist()
    if position is not None:
        measured.thickness += [int(box[0].stop - box[0].start) for box in find_objects(parts) if box is not None]
    if not len(large):
        return
    size = (int(mask.shape[-2]), int(mask.shape[-1]))
    for side in SIDES:
        grid = grid_of(size, side)
        measured.lost[side] += _count_lost(parts, large, grid, None)
        if position is not None:
            column, row, _ = position.spacing.tolist()
            measured.lost_in_margin[side] += _count_lost(parts, large, grid, square_window(size, (row, column), grid))


def _count_lost(
    parts: NDArray[np.int32], large: NDArray[np.intp], grid: tuple[int, int], window: CropWindow | None
) -> int:
    """Count the parts that have no pixel on a grid.

    Args:
        parts: (D, h, w): the number of each voxel's part; 0 is background.
        large: Numbers of the parts to count.
        grid: Height and width of the grid.
        window: Window of each slice that fills the grid; None for the slice itself.
    """
    size, left, top = parts.shape[1:], 0, 0
    if window is not None:
        size, left, top = window.size, window.left, window.top
    if grid[0] >= size[0] and grid[1] >= size[1]:
        return 0  # every pixel of the slice has a pixel on the grid
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) + start
        for new, old, start in zip(grid, size, (top, left), strict=True)
    )
    rows, columns = (
        numbers[(numbers >= 0) & (numbers < length)]
        for numbers, length in zip((rows, columns), parts.shape[1:], strict=True)
    )
    kept = np.bincount(parts[:, rows[:, None], columns].ravel(), minlength=int(large.max()) + 1)
    return int((kept[large] == 0).sum())
