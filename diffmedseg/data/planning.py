"""Settings of a data set that follow from its images, its lesions and the machine at hand."""

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
_SPECK = 4  # pixels or voxels: what is smaller is taken for a slip of the hand; ours
_SQUARE = 0.2  # images whose sides differ by less are shown on a square grid, as the yaml files do; ours
# Pixels in a batch: 16 images of 64 px on two cores, as the preset cpu, and 32 of 128 px on 16 GB, near the preset gpu.
_CPU_PIXELS, _CORES = 16 * 64**2, 2
_GPU_PIXELS, _GIGABYTES = 32 * 128**2, 16
_FEWEST, _MOST = 8, 32  # images in a batch; fewer are too noisy, and patches are taken instead; ours
_SMALLEST_PATCH = 64
_THICK = 3  # slices: of lesions that span as many, neighbouring slices tell something; ours
_ALIKE = 0.1  # slice distances that differ by less are taken for one; ours


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        name: For people.
        pixels: Pixels that a batch may have.
    """

    name: str
    pixels: int

    @classmethod
    def here(cls) -> "Machine":
        """Look at this machine."""
        if torch.cuda.is_available():
            facts = torch.cuda.get_device_properties(0)
            gigabytes = facts.total_memory / 1e9
            return cls(f"{facts.name} with {gigabytes:.0f} GB", int(_GPU_PIXELS * gigabytes / _GIGABYTES))
        cores = os.cpu_count() or 1
        return cls(f"a CPU with {count(cores, 'core')}", _CPU_PIXELS * max(cores // _CORES, 1))


@dataclass
class Measured:
    """What was measured on some training cases.

    Attributes:
        title: The data set.
        cases: Number of cases.
        sizes: (height, width) of each image, in pixels.
        spacings: Distance of slices, rows and columns in mm, of each volume.
        depths: Slices of each volume.
        intensities: By channel the 1st, 50th and 99th percentile of each case, as stored.
        lesions: Area in pixels, or volume in voxels, of each connected part of each region; specks are left out.
        specks: Parts that are smaller than that.
        thickness: Slices that each lesion of a volume spans.
        lost: By the grid's longer side, how many lesions have no pixel on it.
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
    """Return a grid whose longer side is given, for images of a size; multiples of 32 px."""
    height, width = size
    if abs(height - width) < _SQUARE * max(height, width):
        return side, side
    shorter = max(round(side * min(size) / max(size) / _STEP), 2) * _STEP
    return (side, shorter) if height > width else (shorter, side)


def measure(data: SegmentationDataModule, num_cases: int = 40) -> Measured:
    """Measure training cases as their files have them.

    Args:
        data: The data set.
        num_cases: How many cases, spread over the training set.

    Raises:
        DataError: If a case cannot be read, or comes from no files.
    """
    data.prepare_data()
    found = Measured(data.info.title)
    total = min(num_cases, len(data.split_cases("train")))
    for case in track(data.native_cases("train", num_cases), f"Measuring {found.title}", total, disable=total < 10):
        _measure_image(case, data.info.channels, found)
        masks = majority(torch.from_numpy(case.masks)).numpy()
        for mask in masks:
            _measure_lesions(mask if case.grid is not None else mask[None], case.grid is not None, found)
    if not found.cases:
        raise DataError(f"{found.title} has no training cases: there is nothing to measure.")
    return found


def _measure_image(case: Native, channels: tuple[str, ...], found: Measured) -> None:
    found.cases += 1
    height, width = case.image.shape[-2:]
    found.sizes.append((int(height), int(width)))
    if case.grid is not None:
        column, row, depth = case.grid.spacing.tolist()
        found.spacings.append((depth, row, column))
        found.depths.append(int(case.image.shape[1]))
    for name, channel in zip(channels, case.image, strict=True):
        found.intensities.setdefault(name, []).append(np.percentile(channel[..., ::2, ::2], (1, 50, 99)).tolist())


def _measure_lesions(mask: NDArray[np.uint8], volume: bool, found: Measured) -> None:
    """Measure the connected parts of a mask (D, h, w), and which of them have a pixel on each grid."""
    from scipy.ndimage import find_objects, label

    parts, _ = label(mask)
    areas = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero(areas >= _SPECK) + 1
    found.specks += len(areas) - len(large)
    found.lesions += areas[large - 1].tolist()
    if volume:
        found.thickness += [int(box[0].stop - box[0].start) for box in find_objects(parts) if box is not None]
    size = (int(mask.shape[-2]), int(mask.shape[-1]))
    for side in [one for one in found.lost if one < max(size)] if len(large) else ():  # finer ones lose nothing
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.intp)
            for new, old in zip(grid_of(size, side), size, strict=True)
        )
        kept = np.bincount(parts[:, rows[:, None], columns].ravel(), minlength=len(areas) + 1)
        found.lost[side] += int((kept[large] == 0).sum())


@dataclass(frozen=True)
class Plan:
    """Proposed settings of a data module, and why.

    Attributes:
        title: The data set and the machine.
        settings: By setting its value, and the reason in a sentence.
        facts: What was measured, a sentence each.
    """

    title: str
    settings: Mapping[str, tuple[object, str]]
    facts: tuple[str, ...]

    def as_yaml(self) -> str:
        """Return a configuration with the reasons as comments, to be edited."""
        lines = [f"# {self.title}", *(f"# {fact}" for fact in self.facts), "data:", "  init_args:"]
        for name, (value, why) in self.settings.items():
            shown = (
                "null" if value is None else f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else value
            )
            lines += [f"    # {why}", f"    {name}: {shown}"]
        return "\n".join(lines) + "\n"


def plan(found: Measured, machine: Machine | None = None) -> Plan:
    """Propose image size, patch, batch and, for volumes, context.

    The image size is the smallest on which every measured lesion has a pixel. Where a batch of such images is too large
    for the machine, patches of it are learned.

    Args:
        found: What was measured.
        machine: What trains; None for this machine.
    """
    machine = machine or Machine.here()
    native = max(found.size)
    sides = [side for side in _SIDES if side < native + _STEP] or [_SIDES[0]]
    side = next((one for one in sides if not found.lost[one]), sides[-1])
    grid = grid_of(found.size, side)
    settings: dict[str, tuple[object, str]] = {"image_size": (grid, _why_size(found, side))}
    pixels = grid[0] * grid[1]
    patch = None if pixels * _FEWEST <= machine.pixels else _patch(machine.pixels, grid)
    fits = f"{machine.name} takes about {machine.pixels:,} pixels in a batch"
    if patch is None:
        settings["patch"] = None, f"Whole images: {fits}, and {count(_FEWEST, 'image')} of this size fit."
    else:
        settings["patch"] = patch, f"{fits}: fewer than {_FEWEST} whole images. Patches keep the grid this fine."
    batch = min(max(machine.pixels // (pixels if patch is None else patch**2), 2), _MOST)
    settings["batch_size"] = batch, f"As many as fit, from 2 to {_MOST}."
    if found.depths:
        settings |= _context(found)
    return Plan(f"Plan for {found.title} on {machine.name}: `diffmedseg data plan`", settings, tuple(_facts(found)))


def _patch(pixels: int, grid: tuple[int, int]) -> int | None:
    side = int((pixels / _FEWEST) ** 0.5) // _STEP * _STEP
    patch = max(side, _SMALLEST_PATCH)
    return patch if patch < min(grid) else None


def _why_size(found: Measured, side: int) -> str:
    lost = found.lost[side]
    smaller = [one for one in _SIDES if one < side]
    before = f"; {found.lost[smaller[-1]]} would be lost at {smaller[-1]} px" if smaller else ""
    if not found.lesions:
        return "No lesion was measured: the smallest grid."
    if lost:
        return (
            f"{lost} of {len(found.lesions)} lesions have no pixel even on this grid, the finest of the images' size."
        )
    return f"The smallest grid on which each of {len(found.lesions)} lesions has a pixel{before}."


def _context(found: Measured) -> dict[str, tuple[object, str]]:
    """Return the settings of neighbouring slices."""
    span = float(np.median(found.thickness)) if found.thickness else 0.0
    distances = np.array([spacing[0] for spacing in found.spacings])
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
        why = f"Slice distances differ, from {distances.min():g} to {distances.max():g} mm: this is their median."
        settings["context_distance"] = middle, why
    return settings


def _facts(found: Measured) -> list[str]:
    height, width = found.size
    lines = [f"Measured: {count(found.cases, 'training case')} of {width} x {height} px (median)."]
    if found.depths:
        spacing = " x ".join(f"{value:g}" for value in np.median(np.array(found.spacings), 0).tolist())
        lines.append(
            f"{np.median(found.depths):g} slices (median); slices, rows and columns {spacing} mm apart (median)."
        )
    if found.lesions:
        unit = "voxels" if found.depths else "pixels"
        ends = np.percentile(found.lesions, (0, 5, 50)).tolist()
        lines.append(
            f"{count(len(found.lesions), 'lesion')} of {ends[0]:g} {unit} and more; 5 % below {ends[1]:g}, median "
            f"{ends[2]:g}."
        )
    if found.specks:
        lines.append(f"{count(found.specks, 'part')} of masks with fewer than {_SPECK} pixels or voxels left out.")
    for name, values in found.intensities.items():
        low, middle, high = np.median(np.array(values), 0).tolist()
        lines.append(
            f"{name}: percentiles 1, 50 and 99 are {low:.4g}, {middle:.4g} and {high:.4g} as stored (medians)."
        )
    return lines
