"""Segmentation of a volume slice by slice, as in a test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.metrics.functional import mask_confidence, soft_overlap
from diffmedseg.postprocessing.components import drop_small, smallest_sizes
from diffmedseg.prediction.volumes.compact import PackedMasks, SteppedMap
from diffmedseg.prediction.volumes.planes import LEARNED
from diffmedseg.prediction.volumes.slices import SliceRun
from diffmedseg.segmentation import Segmentation, full_size_samples, resize_soft, sample_areas

STEPS = 256
"""Steps per unit of probability, about as many as in the PNG of a picture; 0.5 is a whole step. A few samples do not
justify finer steps, which would make files several times larger."""
FRACTIONS = 255
"""Steps per unit of probability in DICOM segmentations."""
_SOFT = 255  # steps per unit of the soft samples of an axis, until all axes are segmented


@dataclass(frozen=True)
class VolumeSegmentation:
    """The samples of a volume, and its maps. Slices without brain have no foreground.

    Attributes:
        samples: (S, K, D, h, w), bool: masks of whole slices, at the size of the model's grid.
        sample_voxels: (S, K): number of voxels of each sample at the volume's own size.
        probability: (K, D, H, W), in [0, 1], in steps of 1 / STEPS.
        uncertainty: (K, D, H, W), in [0, 0.5], in steps of 1 / STEPS: the standard deviation over the samples; see
            :class:`~diffmedseg.segmentation.Segmentation`.
        mask: (K, D, H, W), bool.
        doubt: (K,): 1 - confidence of the whole mask; see :func:`~diffmedseg.metrics.functional.mask_confidence`.
        inner: (K, D, H, W), bool: the filled inner contour; None if the model has none.
        outer: (K, D, H, W), bool: the filled outer contour; None if the model has none.
        full_samples: (S, K, D, H, W): the samples at the volume's own size; None if they are not kept.
        fractions: The probability in steps of 1 / FRACTIONS; None if it is not kept.
        familiarity: (1,): familiarity of the whole case; see :class:`~diffmedseg.familiarity.Familiarity`. None if the
            model has none.
    """

    samples: Tensor
    sample_voxels: Tensor
    probability: SteppedMap
    uncertainty: SteppedMap
    mask: NDArray[np.bool_]
    doubt: list[float]
    inner: NDArray[np.bool_] | None = None
    outer: NDArray[np.bool_] | None = None
    full_samples: PackedMasks | None = None
    fractions: SteppedMap | None = None
    familiarity: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """Additional results to keep at the volume's own size.

    Attributes:
        samples: Keep the samples, with one bit per voxel, region and sample.
        fractions: Keep the probability in the steps of DICOM segmentations, with one byte per voxel and region.
    """

    samples: bool = False
    fractions: bool = False


def segment_volume(run: SliceRun, kept: Kept | None = None) -> VolumeSegmentation:
    """Segment every slice with brain, along one or several axes.

    The noise of a sample comes from the case's key in all slices and along all axes; see :class:`SliceRun`. A sample is
    therefore one volume. Along several axes, sample s is the mean of sample s of each axis, thresholded at 0.5.

    Args:
        run: The slices of a volume.
        kept: The additional results to keep; None for the maps only.

    Raises:
        DataError: If the model fails.
    """
    sizes = smallest_sizes(run.settings.smallest or {}, run.model.regions)
    learned = [plane.axis for plane in run.planes] == [LEARNED]
    return (_segment_axial if learned else _segment_axes)(run, kept or Kept(), sizes)


def _segment_axial(run: SliceRun, kept: Kept, sizes: Sequence[int]) -> VolumeSegmentation:
    """Segment axial slices."""
    model, count = run.model, run.num_samples
    shape = (len(model.regions), *run.shape)
    probability, uncertainty = SteppedMap(shape, STEPS), SteppedMap(shape, STEPS, 0.5)
    fractions = SteppedMap(shape, FRACTIONS) if kept.fractions else None
    mask = np.zeros(shape, np.bool_)
    inner, outer = (None, None) if model.conformal is None else (np.zeros_like(mask), np.zeros_like(mask))
    samples = torch.zeros(count, *shape[:2], *model.image_size, dtype=torch.bool)
    full = PackedMasks((count, *shape)) if kept.samples else None
    inside_mask = _WithinMask() if max(sizes) > 1 else None
    voxels = torch.zeros(count, shape[0], dtype=torch.int64)
    overlap = torch.zeros(2, shape[0], dtype=torch.float64)
    size = (shape[2], shape[3])
    for numbers, result in run.segment():
        for target, values in (
            (probability, result.probability), (fractions, result.probability), (uncertainty, result.uncertainty),
            (mask, result.mask), (inner, result.inner), (outer, result.outer),
        ):  # fmt: skip
            if target is not None and values is not None:
                target[:, numbers] = values.transpose(0, 1).numpy()
        samples[:, :, numbers] = _whole_slices(result, model.image_size).permute(1, 2, 0, 3, 4)
        if full is not None:
            for s, sample in enumerate(full_size_samples(result.samples, size, result.window)):
                full[s, :, numbers] = sample.numpy()  # an index of a number and a list puts the list first
        voxels += sample_areas(result.samples, size, result.window).sum(0)
        mean = result.mean
        overlap += torch.stack(soft_overlap(mean, result.mask)).sum(1)
        if inside_mask is not None:
            inside_mask.add(numbers, mean, result.mask)
    if inside_mask is not None:
        whole_mask, mask = mask, drop_small(mask, sizes, model.nested)
        inner = None if inner is None else inner & mask
        overlap -= inside_mask.dropped(whole_mask, mask)
    maps = samples, voxels, probability, uncertainty, mask, _doubt(mask, overlap, voxels), inner, outer, full, fractions
    return VolumeSegmentation(*maps, run.familiarity())


def _whole_slices(result: Segmentation, grid: tuple[int, int]) -> Tensor:
    """Return the samples as masks of whole slices, (B, S, K, *grid), bool."""
    if result.window is None:
        return result.binary_samples
    size = int(result.mask.shape[-2]), int(result.mask.shape[-1])
    native = full_size_samples(result.samples, size, result.window)
    return torch.stack([resize_soft(sample.float(), grid) > 0.5 for sample in native], 1)


class _WithinMask:
    """The mean of the samples inside of the masks of slices. It gives the overlap after a mask lost small parts."""

    def __init__(self) -> None:
        self._slices: dict[int, list[NDArray[np.float32]]] = {}

    def add(self, numbers: Sequence[int], mean: Tensor, mask: Tensor) -> None:
        """Store the values of slices.

        Args:
            numbers: Numbers of the slices.
            mean: (B, K, H, W).
            mask: (B, K, H, W), bool.
        """
        for number, values, inside in zip(numbers, mean.numpy(), mask.numpy(), strict=True):
            self._slices[number] = [
                region_mean[region_mask] for region_mean, region_mask in zip(values, inside, strict=True)
            ]

    def dropped(self, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Tensor:
        """Return the decrease of the sums of soft_overlap, (2, K), if a mask (K, D, H, W) loses voxels.

        Args:
            before: The mask before voxels were dropped.
            after: The mask without these voxels.
        """
        decrease = torch.zeros(2, len(before), dtype=torch.float64)
        for number, regions in self._slices.items():
            for k, values in enumerate(regions):
                dropped_values = values[~after[k, number][before[k, number]]]
                decrease[:, k] += torch.tensor([dropped_values.sum(dtype=np.float64), len(dropped_values)])
        return decrease


def _segment_axes(run: SliceRun, kept: Kept, sizes: Sequence[int]) -> VolumeSegmentation:
    """Segment slices along several axes, or along a single axis that is not axial, and take the mean over the axes."""
    model, axis_count = run.model, len(run.planes)
    shape = (len(model.regions), *run.shape)
    probability, mean = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    soft = []  # for each axis, the soft samples (S, K, slices, h, w)
    for position, plane in enumerate(run.planes):
        axis_samples = torch.zeros(run.num_samples, shape[0], plane.shape[0], *plane.grid, dtype=torch.uint8)
        for numbers, result in run.segment(position):
            plane.turn(probability)[:, numbers] += result.probability.transpose(0, 1).numpy() / axis_count
            plane.turn(mean)[:, numbers] += result.mean.transpose(0, 1).numpy() / axis_count
            axis_samples[:, :, numbers] = (result.samples.permute(1, 2, 0, 3, 4) * _SOFT).round().to(torch.uint8)
        soft.append(axis_samples)
    threshold = model.threshold if run.settings.threshold is None else run.settings.threshold
    mask = probability > np.float32(threshold)
    fractions = _in_steps(probability, FRACTIONS) if kept.fractions else None
    levels = _in_steps(probability, STEPS)
    del probability  # as early as possible, because the float maps of a volume are large
    mask = drop_small(mask, sizes, model.nested) if max(sizes) > 1 else mask
    overlap = _overlap(mean, mask)
    for slice_values in mean.reshape(-1, *shape[2:]):
        slice_values[:] = np.sqrt(slice_values * (1 - slice_values))
    uncertainty = _in_steps(mean, STEPS, 0.5)
    del mean
    full = PackedMasks((run.num_samples, *shape)) if kept.samples else None
    samples = torch.zeros(run.num_samples, *shape[:2], *model.image_size, dtype=torch.bool)
    voxels = torch.zeros(run.num_samples, shape[0], dtype=torch.int64)
    for s, k in np.ndindex(run.num_samples, shape[0]):
        sample_mask = _mean_sample(run, [axis_samples[s, k] for axis_samples in soft])
        voxels[s, k] = int(np.count_nonzero(sample_mask))
        for small, slice_values in zip(samples[s, k], sample_mask, strict=True):
            small[:] = resize_soft(torch.from_numpy(slice_values)[None, None].float(), model.image_size)[0, 0] > 0.5
        if full is not None:
            full[s, k] = sample_mask
    maps = samples, voxels, levels, uncertainty, mask, _doubt(mask, overlap, voxels), None, None, full, fractions
    return VolumeSegmentation(*maps, run.familiarity())


def _in_steps(values: NDArray[np.float32], steps: int, highest: float = 1.0) -> SteppedMap:
    """Round values (K, D, H, W) to whole steps."""
    rounded = SteppedMap(values.shape, steps, highest)
    for index in np.ndindex(values.shape[:2]):  # a copy of a volume may be large
        rounded[index] = values[index]
    return rounded


def _mean_sample(run: SliceRun, soft: Sequence[Tensor]) -> NDArray[np.bool_]:
    """Return the mask (D, H, W) of a sample of a region: the mean over the axes of soft slices (slices, h, w)."""
    total = np.zeros(run.shape, np.float32)
    for plane, slices in zip(run.planes, soft, strict=True):
        turned = plane.turn(total)
        for number, sample_slice in enumerate(slices):
            if sample_slice.any():
                turned[number] += resize_soft(sample_slice[None, None].float() / _SOFT, plane.size, plane.window)[
                    0, 0
                ].numpy()
    return total > len(soft) / 2


def _overlap(mean: NDArray[np.float32], mask: NDArray[np.bool_]) -> Tensor:
    """Return the sums of soft_overlap of a volume, (2, K)."""
    total = torch.zeros(2, len(mask), dtype=torch.float64)
    for number in range(mask.shape[1]):  # a float64 copy of a volume may be large
        pair = torch.from_numpy(mean[:, number]), torch.from_numpy(mask[:, number])
        total += torch.stack(soft_overlap(*pair))
    return total


def _doubt(mask: NDArray[np.bool_], overlap: Tensor, voxels: Tensor) -> list[float]:
    """Return 1 - confidence of each region's mask."""
    empty = torch.from_numpy(~mask.any((1, 2, 3)))
    confidence = mask_confidence(overlap[0], overlap[1], empty, (voxels == 0).double().mean(0))
    doubt: list[float] = (1 - confidence).tolist()
    return doubt
