"""Samples of a volume's slices, drawn and fused in batches."""

from collections.abc import Iterator
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from diffmedseg.data.mri.volumes import NormalVolume
from diffmedseg.errors import DataError
from diffmedseg.keyed_random import slice_keys
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.run import Settings, check_finite
from diffmedseg.prediction.volumes.planes import LEARNED, Plane, check_axes
from diffmedseg.prediction.volumes.reading import Volume
from diffmedseg.prediction.watching import Watcher
from diffmedseg.reading.slice_input import SliceInput, without_gaps
from diffmedseg.segmentation import Segmentation


class SliceRun:
    """Segments the slices with brain of a volume, axis by axis.

    A run keeps the slices on the model's grid. It does not keep the volume.

    Args:
        model: The model, on its device.
        volume: The volume.
        key: Key of the noise of all slices along all axes.
        settings: Settings of the prediction, filled in by ``Settings.filled_from``.
        batch_size: Number of slices that are segmented together. A network of volumes sees all slices at once.
        watcher: Follows the slices.

    Raises:
        DataError: If there is no brain, a channel is constant in the brain, the settings do not fit a network of
            volumes, or the model's calibration is not valid for the settings.
    """

    def __init__(
        self,
        model: Segmenter,
        volume: Volume,
        key: str,
        settings: Settings,
        batch_size: int,
        watcher: Watcher | None = None,
    ) -> None:
        axes = check_axes(settings.axes or (LEARNED,))
        if axes != (LEARNED,) and model.conformal is not None:
            raise DataError(
                f"this model's contours and intervals were fitted to {LEARNED} slices, and may not hold along "
                f"{', '.join(axes)}. Leave --axes out, or name a checkpoint without calibration"
            )
        if settings.slice_correlation is not None and model.depth:
            raise DataError(
                "this model is a network of volumes, and draws noise for a whole volume. Leave --slice_correlation out"
            )
        if settings.slice_correlation != model.slice_correlation and model.conformal is not None:
            raise DataError(
                "this model's intervals of volume were fitted with another --slice_correlation. Leave it "
                "out, or name a checkpoint without calibration"
            )
        self.model, self.settings, self.shape = model, settings, volume.brain.shape
        self.num_samples = model.count_samples(settings.num_samples, settings.tta)
        self._shown = model.slice_input or SliceInput()
        self.planes = [Plane.of(axis, self.shape, volume.spacing, model.image_size, self._shown) for axis in axes]
        self._key, self._batch_size, self._watcher = key, batch_size, watcher or Watcher()
        ranges = self._shown.ranges_of(model.channels)
        normal = NormalVolume.of(volume.channels, volume.brain, volume.names, ranges)
        self._images = [plane.images(normal) for plane in self.planes]
        self._numbers = [np.flatnonzero(plane.turn(volume.brain).any((1, 2))).tolist() for plane in self.planes]
        if model.depth:
            self._numbers = [without_gaps(numbers) for numbers in self._numbers]
        self._features: list[Tensor] = []

    def segment(self, position: int = 0) -> Iterator[tuple[list[int], Segmentation]]:
        """Yield the segmentation of batches of slices along an axis, with the numbers of the slices.

        Args:
            position: Position of the axis in ``planes``.
        """
        plane, images, numbers = self.planes[position], self._images[position], self._numbers[position]
        done, total = sum(map(len, self._numbers[:position])), sum(map(len, self._numbers))
        together = len(numbers) if self.model.depth else self._batch_size
        for first in range(0, len(numbers), together):
            batch_numbers = numbers[first : first + together]
            self._watcher.within((done + first) / total)
            neighbours = [self._shown.neighbours(number, plane.shape[0], plane.spacing[0]) for number in batch_numbers]
            batch, length = images[torch.tensor(neighbours)].flatten(1, 2), self.settings.slice_correlation
            keys = slice_keys(self._key, batch_numbers, plane.spacing[0], length)
            sample_set = self._watcher.draw(batch, keys, self.model, self.settings)
            check_finite(sample_set)
            if sample_set.features is not None and plane.axis == LEARNED:  # familiarity compares with training
                self._features.append(sample_set.features)
            for part in (
                slice(start, start + self._batch_size) for start in range(0, len(batch_numbers), self._batch_size)
            ):
                fused = self.model.fuse(sample_set.map(itemgetter(part)), plane.size_seen, batch[part], keys[part])
                decided = self.settings.decide(fused)
                yield (
                    batch_numbers[part],
                    decided if plane.window is None else decided.paste_into(plane.window, plane.size),
                )

    def familiarity(self) -> Tensor | None:
        """Return the familiarity of the whole case, (1,), from its axial slices; None without them or in the model."""
        if self.model.familiarity is None or not self._features:
            return None
        familiarity: Tensor = self.model.familiarity(torch.cat(self._features).mean(0, keepdim=True))
        return familiarity
