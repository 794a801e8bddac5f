"""Segmenting a volume slice by slice, as in a test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.errors import DataError
from diffmedseg.metrics.functional import mask_confidence, soft_overlap
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.components import drop_small, smallest_sizes
from diffmedseg.prediction.run import Settings
from diffmedseg.prediction.volumes.planes import LEARNED, check_axes
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.volumes.slices import SliceRun
from diffmedseg.prediction.watching import Watcher
from diffmedseg.segmentation import full_size_samples, resize_soft, sample_areas

_STEPS = 255  # of soft samples that wait for those of other axes


@dataclass(frozen=True)
class VolumeSegmentation:
    """A set of masks of a volume, and what follows from it; nothing is found where a slice shows no brain.

    Attributes:
        samples: (S, K, D, h, w), bool, on the model's grid.
        sample_voxels: (S, K): voxels of each sample at the volume's own size.
        probability: (K, D, H, W), float32, in [0, 1].
        uncertainty: (K, D, H, W), float32, in [0, 0.5]: the samples' standard deviation; see Segmentation.
        mask: (K, D, H, W), bool.
        doubt: (K,): 1 - confidence of the whole mask; see mask_confidence.
        inner: (K, D, H, W), bool: the inner contour, filled; None where the model has none.
        outer: (K, D, H, W), bool: the outer contour, likewise.
        full_samples: (S, K, D, H, W), bool: the samples at the volume's own size; None where they are not wanted.
        familiarity: (1,), of the whole case; see :class:`~diffmedseg.familiarity.Familiarity`. None where the model has
            none.
    """

    samples: Tensor
    sample_voxels: Tensor
    probability: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    mask: NDArray[np.bool_]
    doubt: list[float]
    inner: NDArray[np.bool_] | None = None
    outer: NDArray[np.bool_] | None = None
    full_samples: NDArray[np.bool_] | None = None
    familiarity: Tensor | None = None


def segment_volume(
    model: Segmenter,
    volume: Volume,
    key: str,
    settings: Settings,
    batch_size: int,
    keep_samples: bool = False,
    watcher: Watcher | None = None,
) -> VolumeSegmentation:
    """Segment every slice that shows brain, along one axis or along several.

    The noise of a sample is that of the key in every slice, so that a sample is one volume. It is that along each axis,
    too: sample s is the mean of the samples s along all axes.

    Args:
        model: The model, on its device.
        volume: The volume.
        key: Key of the noise.
        settings: Samples, steps, seed, precision, axes and the smallest parts, filled in.
        batch_size: Slices segmented together.
        keep_samples: Keep the samples at the volume's own size, a byte per voxel, region and sample.
        watcher: Follows the slices.

    Raises:
        DataError: If there is no brain, a channel is constant within it, the model fails, or its contours do not hold
            along the axes.
    """
    axes = check_axes(settings.axes or (LEARNED,))
    if axes != (LEARNED,) and model.conformal is not None:
        raise DataError(
            f"this model's contours and intervals were fitted to {LEARNED} slices, and need not hold along "
            f"{', '.join(axes)}. Leave --axes out, or name a checkpoint without calibration"
        )
    run = SliceRun(model, volume, key, settings, batch_size, watcher or Watcher(), axes)
    sizes = smallest_sizes(settings.smallest or {}, model.regions)
    return _along_one(run, keep_samples, sizes) if axes == (LEARNED,) else _along_all(run, keep_samples, sizes)


def _along_one(run: SliceRun, keep_samples: bool, sizes: Sequence[int]) -> VolumeSegmentation:
    """Segment axial slices."""
    model, count = run.model, run.num_samples
    shape = (len(model.regions), *run.shape)
    probability, uncertainty = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mask = np.zeros(shape, np.bool_)
    inner, outer = (None, None) if model.conformal is None else (np.zeros_like(mask), np.zeros_like(mask))
    samples = torch.zeros(count, *shape[:2], *model.image_size, dtype=torch.bool)
    full = np.zeros((count, *shape), np.bool_) if keep_samples else None
    mean = np.zeros(shape, np.float32) if max(sizes) > 1 else None
    voxels = torch.zeros(count, shape[0], dtype=torch.int64)
    overlap = torch.zeros(2, shape[0], dtype=torch.float64)
    size = (shape[2], shape[3])
    for some, result in run.segment():
        for kept, found in (
            (probability, result.probability), (uncertainty, result.uncertainty), (mask, result.mask),
            (inner, result.inner), (outer, result.outer), (mean, None if mean is None else result.mean),
        ):  # fmt: skip
            if kept is not None and found is not None:
                kept[:, some] = found.transpose(0, 1).numpy()
        samples[:, :, some] = result.samples.permute(1, 2, 0, 3, 4) > 0.5
        if full is not None:
            for one, sample in zip(full, full_size_samples(result.samples, size), strict=True):
                one[:, some] = sample.transpose(0, 1).numpy()
        voxels += sample_areas(result.samples, size).sum(0)
        overlap += torch.stack(soft_overlap(result.mean, result.mask)).sum(1)
    if mean is not None:
        mask = drop_small(mask, sizes, model.nested)
        inner = None if inner is None else inner & mask
        overlap = _overlap(mean, mask)
    maps = samples, voxels, probability, uncertainty, mask, _doubt(mask, overlap, voxels), inner, outer, full
    return VolumeSegmentation(*maps, run.familiarity())


def _along_all(run: SliceRun, keep_samples: bool, sizes: Sequence[int]) -> VolumeSegmentation:
    """Segment slices along several axes, or along another axis than the learned one, and take the mean."""
    model, number = run.model, len(run.planes)
    shape = (len(model.regions), *run.shape)
    probability, mean = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    soft = []  # by axis, of all samples: (S, K, slices, h, w)
    for position, plane in enumerate(run.planes):
        shown = [one.stop - one.start for one in plane.shown]
        waiting = torch.zeros(run.num_samples, shape[0], plane.shape[0], *shown, dtype=torch.uint8)
        for some, result in run.segment(position):
            plane.turn(probability)[:, some] += result.probability.transpose(0, 1).numpy() / number
            plane.turn(mean)[:, some] += result.mean.transpose(0, 1).numpy() / number
            waiting[:, :, some] = (result.samples.permute(1, 2, 0, 3, 4) * _STEPS).round().to(torch.uint8)
        soft.append(waiting)
    threshold = model.threshold if run.settings.threshold is None else run.settings.threshold
    mask = probability > np.float32(threshold)
    mask = drop_small(mask, sizes, model.nested) if max(sizes) > 1 else mask
    overlap = _overlap(mean, mask)
    full = np.zeros((run.num_samples, *shape), np.bool_) if keep_samples else None
    samples = torch.zeros(run.num_samples, *shape[:2], *model.image_size, dtype=torch.bool)
    voxels = torch.zeros(run.num_samples, shape[0], dtype=torch.int64)
    for s, k in np.ndindex(run.num_samples, shape[0]):
        found = _mean_sample(run, [one[s, k] for one in soft])
        voxels[s, k] = int(np.count_nonzero(found))
        for small, one in zip(samples[s, k], found, strict=True):
            small[:] = resize_soft(torch.from_numpy(one)[None, None].float(), model.image_size)[0, 0] > 0.5
        if full is not None:
            full[s, k] = found
    uncertainty = np.sqrt(np.multiply(mean, 1 - mean, out=mean), out=mean)
    maps = samples, voxels, probability, uncertainty, mask, _doubt(mask, overlap, voxels), None, None, full
    return VolumeSegmentation(*maps, run.familiarity())


def _mean_sample(run: SliceRun, soft: Sequence[Tensor]) -> NDArray[np.bool_]:
    """Return the mask (D, H, W) of one sample of one region: the mean of soft slices (slices, h, w) along each axis."""
    total = np.zeros(run.shape, np.float32)
    for plane, slices in zip(run.planes, soft, strict=True):
        turned = plane.turn(total)
        for number, one in enumerate(slices):
            if one.any():
                turned[number] += resize_soft(one[None, None].float() / _STEPS, plane.shape[1:])[0, 0].numpy()
    return total > len(soft) / 2


def _overlap(mean: NDArray[np.float32], mask: NDArray[np.bool_]) -> Tensor:
    """Return the sums of soft_overlap of a volume, (2, K)."""
    total = torch.zeros(2, len(mask), dtype=torch.float64)
    for number in range(mask.shape[1]):  # a float64 copy of a volume may be large
        pair = torch.from_numpy(mean[:, number]), torch.from_numpy(mask[:, number])
        total += torch.stack(soft_overlap(*pair))
    return total


def _doubt(mask: NDArray[np.bool_], overlap: Tensor, voxels: Tensor) -> list[float]:
    """Return 1 - the confidence of each region's mask."""
    empty = torch.from_numpy(~mask.any((1, 2, 3)))
    confidence = mask_confidence(overlap[0], overlap[1], empty, (voxels == 0).double().mean(0))
    doubt: list[float] = (1 - confidence).tolist()
    return doubt
