"""Propose settings of a data set from its images, its lesions and this machine. Values marked "ours" are our choice."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.native import Native
from diffmedseg.errors import DataError
from diffmedseg.segmentation import majority
from diffmedseg.wording import count

_SIDES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
_STEP = 32  # pixels: every network's grid is a multiple of this
_SPECK = 4  # pixels or voxels: smaller parts of a mask count as slips of the hand; ours
_SQUARE = 0.2  # images whose sides differ by less get a square grid, as in the yaml files; ours
# Pixels in a batch: 16 images of 64 px on two cores, as the preset cpu, and 32 of 128 px on 16 GB, near the preset gpu.
_CPU_PIXELS, _CORES = 16 * 64**2, 2
_GPU_PIXELS, _GIGABYTES = 32 * 128**2, 16
_FEWEST, _MOST = 8, 32  # images in a batch; smaller batches are too noisy, so patches are used instead; ours
_SMALLEST_PATCH = 64
_THICK = 3  # slices: a lesion of at least this thickness is visible in neighbouring slices; ours
_ALIKE = 0.1  # slice distances within this relative difference count as equal; ours
_STRETCH = 0.2  # from which a grid that stretches slices is mentioned; ours


@dataclass(frozen=True)
class Machine:
    """The machine that trains.

    Attributes:
        name: Name for messages.
        pixels: Maximum number of pixels in a batch.
    """

    name: str
    pixels: int

    @classmethod
    def here(cls) -> "Machine":
        """Describe this machine."""
        if torch.cuda.is_available():
            facts = torch.cuda.get_device_properties(0)
            gigabytes = facts.total_memory / 1e9
            return cls(f"{facts.name} with {gigabytes:.0f} GB", int(_GPU_PIXELS * gigabytes / _GIGABYTES))
        cores = os.cpu_count() or 1
        return cls(f"a CPU with {count(cores, 'core')}", _CPU_PIXELS * max(cores // _CORES, 1))


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
    lost: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_SIDES, 0))

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
    shorter = max(round(side * min(size) / max(size) / _STEP), 2) * _STEP
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
            _measure_lesions(mask if case.grid is not None else mask[None], case.grid is not None, measured)
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


def _measure_lesions(mask: NDArray[np.uint8], volume: bool, measured: Measured) -> None:
    """Measure the connected parts of a mask (D, h, w), and count the parts that have no pixel on each grid."""
    from scipy.ndimage import find_objects, label

    parts, _ = label(mask)
    areas = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero(areas >= _SPECK) + 1
    measured.specks += len(areas) - len(large)
    measured.lesions += areas[large - 1].tolist()
    if volume:
        measured.thickness += [int(box[0].stop - box[0].start) for box in find_objects(parts) if box is not None]
    size = (int(mask.shape[-2]), int(mask.shape[-1]))
    for side in [px for px in measured.lost if px < max(size)] if len(large) else ():  # finer ones lose nothing
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.intp)
            for new, old in zip(grid_of(size, side), size, strict=True)
        )
        pixel_counts = np.bincount(parts[:, rows[:, None], columns].ravel(), minlength=len(areas) + 1)
        measured.lost[side] += int((pixel_counts[large] == 0).sum())


@dataclass(frozen=True)
class Plan:
    """Proposed settings of a data module, and why.

    Attributes:
        title: The data set and the machine.
        settings: Value of each setting, with the reason in a sentence.
        facts: Measurements, a sentence each.
    """

    title: str
    settings: Mapping[str, tuple[object, str]]
    facts: tuple[str, ...]

    def as_yaml(self) -> str:
        """Return an editable configuration, with the reasons as comments."""
        lines = [f"# {self.title}", *(f"# {fact}" for fact in self.facts), "data:", "  init_args:"]
        for name, (value, reason) in self.settings.items():
            text = "null" if value is None else f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else value
            lines += [f"    # {reason}", f"    {name}: {text}"]
        return "\n".join(lines) + "\n"


def plan(measured: Measured, machine: Machine | None = None) -> Plan:
    """Propose image size, patch, batch and, for volumes, context.

    The image size is the smallest size at which every measured lesion has a pixel. If a batch of such images is too
    large for the machine, the plan proposes training on patches.

    Args:
        measured: The measurements.
        machine: The machine that trains; None for this machine.
    """
    machine = machine or Machine.here()
    native = max(measured.size)
    sides = [side for side in _SIDES if side < native + _STEP] or [_SIDES[0]]
    side = next((px for px in sides if not measured.lost[px]), sides[-1])
    grid = grid_of(measured.size, side)
    settings: dict[str, tuple[object, str]] = {"image_size": (grid, _why_size(measured, side))}
    pixels = grid[0] * grid[1]
    patch = None if pixels * _FEWEST <= machine.pixels else _patch(machine.pixels, grid)
    fits = f"{machine.name} takes about {machine.pixels:,} pixels in a batch"
    if patch is None:
        settings["patch"] = None, f"Whole images: {fits}, and {count(_FEWEST, 'image')} of this size fit."
    else:
        settings["patch"] = patch, f"{fits}: fewer than {_FEWEST} whole images. Patches keep the grid this fine."
    batch = min(max(machine.pixels // (pixels if patch is None else patch**2), 2), _MOST)
    settings["batch_size"] = batch, f"As many as fit, from 2 to {_MOST}."
    if measured.depths:
        settings |= _context(measured) | _square_pixels(measured, grid)
    return Plan(
        f"Plan for {measured.title} on {machine.name}: `diffmedseg data plan`", settings, tuple(_facts(measured))
    )


def _patch(pixels: int, grid: tuple[int, int]) -> int | None:
    side = int((pixels / _FEWEST) ** 0.5) // _STEP * _STEP
    patch = max(side, _SMALLEST_PATCH)
    return patch if patch < min(grid) else None


def _why_size(measured: Measured, side: int) -> str:
    lost = measured.lost[side]
    smaller = [px for px in _SIDES if px < side]
    comparison = f"; {measured.lost[smaller[-1]]} would be lost at {smaller[-1]} px" if smaller else ""
    if not measured.lesions:
        return "No lesion was measured: the smallest grid."
    if lost:
        return f"{lost} of {len(measured.lesions)} lesions have no pixel even on this grid, the largest of the images."
    return f"The smallest grid on which each of {len(measured.lesions)} lesions has a pixel{comparison}."


def _context(measured: Measured) -> dict[str, tuple[object, str]]:
    """Return the settings of neighbouring slices."""
    span = float(np.median(measured.thickness)) if measured.thickness else 0.0
    distances = np.array([spacing[0] for spacing in measured.spacings])
    middle = round(float(np.median(distances)), 3)
    alike = bool((np.abs(distances - middle) <= _ALIKE * middle).all())
    context = 1 if span >= _THICK else 0
    settings: dict[str, tuple[object, str]] = {
        "context": (
            context,
            f"Lesions span {span:g} slices (median); from {_THICK} on, neighbouring slices show them, too.",
        )
    }
    if context and not alike:
        reason = f"Slice distances differ, from {distances.min():g} to {distances.max():g} mm: this is their median."
        settings["context_distance"] = middle, reason
    return settings


def _square_pixels(measured: Measured, grid: tuple[int, int]) -> dict[str, tuple[object, str]]:
    """Return the setting that keeps the shape of slices, if the grid would stretch them."""
    ratios = [
        (height * down / grid[0]) / (width * across / grid[1])
        for (height, width), (_, down, across) in zip(measured.sizes, measured.spacings, strict=True)
    ]
    stretch = max(max(ratio, 1 / ratio) for ratio in ratios)
    if stretch <= 1 + _STRETCH:
        return {}
    return {
        "square_pixels": (True, f"This grid would stretch slices by up to {stretch - 1:.0%}: a margin avoids that.")
    }


def _facts(measured: Measured) -> list[str]:
    height, width = measured.size
    lines = [f"Measured: {count(measured.cases, 'training case')} of {width} x {height} px (median)."]
    if measured.depths:
        spacing = " x ".join(f"{value:g}" for value in np.median(np.array(measured.spacings), 0).tolist())
        lines.append(
            f"{np.median(measured.depths):g} slices (median); slices, rows and columns {spacing} mm apart (median)."
        )
    if measured.lesions:
        unit = "voxels" if measured.depths else "pixels"
        ends = np.percentile(measured.lesions, (0, 5, 50)).tolist()
        lines.append(
            f"{count(len(measured.lesions), 'lesion')} of {ends[0]:g} {unit} and more; 5 % below {ends[1]:g}, median "
            f"{ends[2]:g}."
        )
    if measured.specks:
        lines.append(f"{count(measured.specks, 'part')} of masks with fewer than {_SPECK} pixels or voxels left out.")
    for name, values in measured.intensities.items():
        low, middle, high = np.median(np.array(values), 0).tolist()
        lines.append(
            f"{name}: percentiles 1, 50 and 99 are {low:.4g}, {middle:.4g} and {high:.4g} as stored (medians)."
        )
    return lines
