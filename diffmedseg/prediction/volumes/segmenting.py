"""Segmenting a volume slice by slice, as in a test."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.data.mri.store import to_slices
from diffmedseg.metrics.functional import mask_confidence, soft_overlap
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.run import Settings
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.watching import Watcher
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.segmentation import full_size_samples, sample_areas


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
    """Segment every slice that shows brain.

    The noise of a sample is that of the key in every slice, so that a sample is one volume.

    Args:
        model: The model, on its device.
        volume: The volume.
        key: Key of the noise.
        settings: Samples, steps, seed and precision, filled in.
        batch_size: Slices segmented together.
        keep_samples: Keep the samples at the volume's own size, a byte per voxel, region and sample.
        watcher: Follows the slices.

    Raises:
        DataError: If there is no brain, a channel is constant within it, or the model fails.
    """
    watcher = watcher or Watcher()
    shown = model.slice_input or SliceInput()
    ranges = shown.ranges_of(model.channels)
    slices = to_slices(volume.channels, volume.brain, volume.names, model.image_size, ranges)
    numbers = np.flatnonzero(volume.brain.any((1, 2))).tolist()
    depth, height, width = volume.brain.shape
    regions, count = len(model.regions), model.count_samples(settings.num_samples, settings.tta)
    shape = (regions, depth, height, width)
    probability, uncertainty = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mask = np.zeros(shape, np.bool_)
    inner, outer = (None, None) if model.conformal is None else (np.zeros_like(mask), np.zeros_like(mask))
    samples = torch.zeros(count, regions, depth, *model.image_size, dtype=torch.bool)
    full = np.zeros((count, *shape), np.bool_) if keep_samples else None
    voxels = torch.zeros(count, regions, dtype=torch.int64)
    overlap = torch.zeros(2, regions, dtype=torch.float64)
    features: list[Tensor] = []
    for first in range(0, len(numbers), batch_size):
        some = numbers[first : first + batch_size]
        watcher.within(first / len(numbers))
        together = [shown.neighbours(number, depth, volume.spacing[0]) for number in some]
        images = slices[torch.tensor(together)].flatten(1, 2)
        drawn = watcher.draw(images, [key] * len(some), model, settings)
        features += [] if drawn.features is None else [drawn.features]
        result = settings.decide(model.fuse(drawn, (height, width), images, [key] * len(some)))
        probability[:, some] = result.probability.transpose(0, 1).numpy()
        uncertainty[:, some] = result.uncertainty.transpose(0, 1).numpy()
        mask[:, some] = result.mask.transpose(0, 1).numpy()
        samples[:, :, some] = result.samples.permute(1, 2, 0, 3, 4) > 0.5
        for kept, found in ((inner, result.inner), (outer, result.outer)):
            if kept is not None and found is not None:
                kept[:, some] = found.transpose(0, 1).numpy()
        if full is not None:
            for one, sample in zip(full, full_size_samples(result.samples, (height, width)), strict=True):
                one[:, some] = sample.transpose(0, 1).numpy()
        voxels += sample_areas(result.samples, (height, width)).sum(0)
        overlap += torch.stack(soft_overlap(result.mean, result.mask)).sum(1)
    empty = torch.from_numpy(~mask.any((1, 2, 3)))
    doubt = 1 - mask_confidence(overlap[0], overlap[1], empty, (voxels == 0).double().mean(0))
    familiarity = None
    if model.familiarity is not None and features:
        familiarity = model.familiarity(torch.cat(features).mean(0, keepdim=True))
    maps = samples, voxels, probability, uncertainty, mask, doubt.tolist(), inner, outer, full
    return VolumeSegmentation(*maps, familiarity)
