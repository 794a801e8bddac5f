"""The panel of a volume: three planes with outlines, probability and disagreement."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffmedseg.figures import (
    DISAGREEMENT,
    MASK,
    PROBABILITY,
    SAMPLE,
    draw_legend,
    label_row,
    legend_of,
    of_first,
    outline,
    scale_below,
    set_title,
    show_map,
)
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.volumes.segmenting import VolumeSegmentation
from diffmedseg.segmentation import resize_soft
from diffmedseg.wording import count

AnyType = TypeVar("AnyType", bound=np.generic)
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # axis of (D, H, W) that each plane is perpendicular to
_WIDTH = 2.6  # of a column, in inches


def draw_planes(
    volume: Volume,
    result: VolumeSegmentation,
    channels: Sequence[str],
    regions: Sequence[str],
    millilitres: NDArray[np.float64],
) -> Figure:
    """Draw three planes, each at the position where the first region's mask is largest.

    Each plane is a row: every channel with outlines, then probability and disagreement.

    Args:
        volume: The volume.
        result: Segmentation of the volume.
        channels: Names of the channels.
        regions: Names of the regions. Samples, probability and disagreement are drawn for the first region.
        millilitres: (K,): volume of each region's mask, in ml.
    """
    of = of_first(regions)
    columns = [*channels, f"probability{of}", f"disagreement{of}"]
    extent = [n * mm for n, mm in zip(volume.brain.shape, volume.spacing, strict=True)]  # D, H, W, in mm
    shapes = [extent[1] / extent[2], extent[0] / extent[2], extent[0] / extent[1]]  # down / across, by plane
    shapes = [min(max(shape, 0.2), 2) for shape in shapes]
    figure = Figure(figsize=(_WIDTH * len(columns), (_WIDTH + 0.1) * sum(shapes) + 1.2), layout="constrained")
    grid = figure.subplots(len(PLANES), len(columns), squeeze=False, height_ratios=shapes)
    windows = [grey_window(channel, volume.brain) for channel in volume.channels]
    for axes, (plane, axis) in zip(grid, PLANES.items(), strict=True):
        number = largest_plane(result.mask[0], volume.brain, axis)
        down, across = (volume.spacing[i] for i in range(3) if i != axis)
        greys = [
            grey_levels(cut_plane(channel, axis, number), *window)
            for channel, window in zip(volume.channels, windows, strict=True)
        ]
        soft = [
            soft_map.values_of(cut_plane(soft_map.levels[0], axis, number))
            for soft_map in (result.probability, result.uncertainty)
        ]
        for panel, values in zip(axes, [*greys, *soft], strict=True):
            kind = DISAGREEMENT if values is soft[1] else PROBABILITY
            show_map(panel, torch.from_numpy(values), kind)
            panel.set_aspect(down / across)
        for panel in axes[: len(greys)]:
            if axis == 0:
                _outline_samples(panel, result, number, (int(volume.brain.shape[1]), int(volume.brain.shape[2])))
            outline(panel, torch.from_numpy(cut_plane(result.mask, axis, number).copy()))
        label_row(axes[0], plane, _WIDTH * shapes[axis], 9)
    for panel, title in zip(grid[0], columns, strict=True):
        set_title(panel, title, _WIDTH - 0.1, 9)
    for panel in grid[-1][-2:]:
        scale_below(panel)
    sizes = [f"{region}, {size:.1f} ml" for region, size in zip(regions, millilitres, strict=True)]
    entries = legend_of([(MASK, sizes[0])] if len(sizes) == 1 else [], sizes)
    if len(result.samples) > 1:
        samples = count(len(result.samples), "sample")
        entries += legend_of([(SAMPLE, f"{samples} of {regions[0]}, in the axial plane")], regions[:1])
    draw_legend(figure, entries, note="At the left: the patient's right; in the sagittal plane the front.")
    return figure


def _outline_samples(axis: Axes, result: VolumeSegmentation, number: int, size: tuple[int, int]) -> None:
    """Draw the samples of the first region in an axial plane."""
    for sample in result.samples[:, :1, number] if len(result.samples) > 1 else ():
        outline(axis, resize_soft(sample[None].float(), size)[0], SAMPLE)


def cut_plane(values: NDArray[AnyType], axis: int, number: int) -> NDArray[AnyType]:
    """Return a plane of (..., D, H, W) in the radiological view: head up, and the patient's right on the left."""
    plane: NDArray[AnyType] = np.take(values, number, axis=axis - 3)
    return plane if axis == 0 else plane[..., ::-1, :]


def grey_window(channel: NDArray[Any], brain: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the values of black and white: the 1st and the 99th percentile of the brain."""
    low, high = np.percentile(channel[brain], (1, 99))
    return float(low), float(high)


def grey_levels(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Scale values from [low, high] to [0, 1], float32, and clip other values."""
    scaled: NDArray[np.float32] = np.clip((values.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    return scaled


def largest_plane(mask: NDArray[np.bool_], brain: NDArray[np.bool_], axis: int) -> int:
    """Return the number of the plane with the largest mask along an axis, or with the most brain if the mask is empty.

    Args:
        mask: (D, H, W).
        brain: (D, H, W).
        axis: Axis of (D, H, W) that the planes are perpendicular to.
    """
    other_axes = tuple(i for i in range(3) if i != axis)
    return int((mask if mask.any() else brain).sum(other_axes).argmax())
