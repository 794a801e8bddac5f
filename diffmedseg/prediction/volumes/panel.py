"""A picture of a volume's prediction, to be looked at."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from diffmedseg.figures import COLOURS, outline
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.volumes.segmenting import VolumeSegmentation
from diffmedseg.segmentation import resize_soft
from diffmedseg.wording import count

AnyType = TypeVar("AnyType", bound=np.generic)
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # the axis of (D, H, W) that each cuts


def draw_planes(
    volume: Volume,
    result: VolumeSegmentation,
    channels: Sequence[str],
    regions: Sequence[str],
    millilitres: NDArray[np.float64],
) -> Figure:
    """Draw three planes, each where the mask is largest: every channel with outlines, probability and disagreement.

    Args:
        volume: The volume.
        result: Its segmentation.
        channels: Names of the channels.
        regions: Names of the regions; the samples' outlines, probability and disagreement are those of the first.
        millilitres: (K,): volume of the mask.
    """
    columns = [*channels, "probability", "disagreement"]
    extent = [n * mm for n, mm in zip(volume.brain.shape, volume.spacing, strict=True)]  # D, H, W, in mm
    shapes = [extent[1] / extent[2], extent[0] / extent[2], extent[0] / extent[1]]  # down / across, by plane
    shapes = [min(max(shape, 0.2), 2) for shape in shapes]
    figure = Figure(figsize=(2.6 * len(columns), 2.7 * sum(shapes) + 0.7), layout="constrained")
    grid = figure.subplots(len(PLANES), len(columns), squeeze=False, height_ratios=shapes)
    shown = [grey_levels(channel, volume.brain) for channel in volume.channels]
    spread = [(one, "gray", 0.0, 1.0) for one in shown]
    spread += [(result.probability[0], "gray", 0.0, 1.0), (result.uncertainty[0], "inferno", 0.0, 0.5)]
    for axes, (plane, axis) in zip(grid, PLANES.items(), strict=True):
        number = largest_plane(result.mask[0], volume.brain, axis)
        down, across = (volume.spacing[i] for i in range(3) if i != axis)

        for column, (one, (values, colours, low, high)) in enumerate(zip(axes, spread, strict=True)):
            one.imshow(cut_plane(values, axis, number), cmap=colours, vmin=low, vmax=high, aspect=down / across)
            one.set(xticks=[], yticks=[])
            if column < len(shown):
                if plane == "axial":
                    size = (int(volume.brain.shape[1]), int(volume.brain.shape[2]))
                    for sample in result.samples[:, :1, number] if len(result.samples) > 1 else ():
                        outline(one, resize_soft(sample[None].float(), size)[0], linewidth=0.5)
                outline(one, torch.from_numpy(cut_plane(result.mask, axis, number).copy()), linewidth=1.2)
            if axis == 0:
                one.set_title(columns[column], fontsize=9)
        axes[0].set_ylabel(plane, fontsize=9)
    names = [f"{region}, {size:.1f} ml" for region, size in zip(regions, millilitres, strict=True)]
    lines = [Line2D([], [], color=colour) for _, colour in zip(names, COLOURS * len(names), strict=False)]
    thin = f"\nthin: {count(len(result.samples), 'sample')} of {regions[0]}" if len(result.samples) > 1 else ""
    figure.legend(
        lines,
        names,
        fontsize=8,
        loc="outside lower center",
        ncols=len(names),
        title_fontsize=8,
        title=f"at the left: the patient's right; in sagittal planes the front{thin}",
    )
    return figure


def cut_plane(values: NDArray[AnyType], axis: int, number: int) -> NDArray[AnyType]:
    """Take a plane of (..., D, H, W) as radiologists look: the top of the head up, the patient's right at the left."""
    plane: NDArray[AnyType] = np.take(values, number, axis=axis - 3)
    return plane if axis == 0 else plane[..., ::-1, :]


def grey_levels(channel: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scale what lies between the 1st and the 99th percentile of the brain to [0, 1]."""
    low, high = np.percentile(channel[brain], (1, 99))
    scaled: NDArray[np.float32] = np.clip((channel - low) / max(high - low, 1e-6), 0, 1)
    return scaled


def largest_plane(mask: NDArray[np.bool_], brain: NDArray[np.bool_], axis: int) -> int:
    """Return where the mask is largest along an axis; of an empty one, the brain."""
    others = tuple(i for i in range(3) if i != axis)
    return int((mask if mask.any() else brain).sum(others).argmax())
