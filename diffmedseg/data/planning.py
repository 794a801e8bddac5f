"""Propose settings of a data set from its images, its lesions and this machine. Values marked "ours" are our choice."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from diffmedseg.data.measured import SIDES, SPECK, STEP, Measured, grid_of
from diffmedseg.reading.windows import square_window
from diffmedseg.wording import count

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
    side = _smallest_side(measured.lost, max(measured.size))
    square = _square_pixels(measured, grid_of(measured.size, side)) if measured.depths else {}
    lost = measured.lost_in_margin if square else measured.lost
    if square:  # a margin makes the pixels of a grid larger
        side = _smallest_side(lost, max(map(max, _sizes_with_margin(measured))))
    grid = grid_of(measured.size, side)
    settings: dict[str, tuple[object, str]] = {"image_size": (grid, _why_size(measured, lost, side))}
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
        settings |= _context(measured) | square
    return Plan(
        f"Plan for {measured.title} on {machine.name}: `diffmedseg data plan`", settings, tuple(_facts(measured))
    )


def _smallest_side(lost: Mapping[int, int], native: int) -> int:
    """Return the smallest side of a grid that loses no lesion; if there is none, the largest side for the images.

    Args:
        lost: Number of lost lesions, by the side.
        native: Longer side of the images in pixels.
    """
    sides = [side for side in SIDES if side < native + STEP] or [SIDES[0]]
    return next((side for side in sides if not lost[side]), sides[-1])


def _sizes_with_margin(measured: Measured) -> list[tuple[int, int]]:
    """Return height and width of each slice of a volume with the margin that makes pixels square."""
    sizes = []
    for size, (_, row, column) in zip(measured.sizes, measured.spacings, strict=True):
        window = square_window(size, (row, column), grid_of(size, max(size)))
        sizes.append(size if window is None else window.size)
    return sizes


def _patch(pixels: int, grid: tuple[int, int]) -> int | None:
    side = int((pixels / _FEWEST) ** 0.5) // STEP * STEP
    patch = max(side, _SMALLEST_PATCH)
    return patch if patch < min(grid) else None


def _why_size(measured: Measured, lost_by_side: Mapping[int, int], side: int) -> str:
    lost = lost_by_side[side]
    smaller = [px for px in SIDES if px < side]
    comparison = f"; {lost_by_side[smaller[-1]]} would be lost at {smaller[-1]} px" if smaller else ""
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
        lines.append(f"{count(measured.specks, 'part')} of masks with fewer than {SPECK} pixels or voxels left out.")
    for name, values in measured.intensities.items():
        low, middle, high = np.median(np.array(values), 0).tolist()
        lines.append(
            f"{name}: percentiles 1, 50 and 99 are {low:.4g}, {middle:.4g} and {high:.4g} as stored (medians)."
        )
    return lines
