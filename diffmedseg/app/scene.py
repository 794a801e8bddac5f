"""One image as it is shown: a volume, or a picture as a volume of one slice."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.volumes.compact import SteppedMap
from diffmedseg.prediction.volumes.panel import grey_levels, grey_window
from diffmedseg.prediction.watching import PictureResult, VolumeResult

COLOURS = "colours"  # the one channel of a picture


@dataclass(frozen=True)
class Size:
    """The area or volume of a region.

    Attributes:
        value: Size of the mask.
        samples: Sizes of the smallest and the largest sample.
        interval: Interval that contains the true size as often as the calibration states; None if the model is not
            calibrated.
    """

    value: float
    samples: tuple[float, float]
    interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and its segmentation, in 8 bits to save memory.

    Attributes:
        name: The image's name.
        images: By channel, uint8: (D, H, W) in grey, or (D, H, W, 3) in colours.
        regions: Names of the K regions.
        samples: (S, K, D, h, w), bool, on the model's grid.
        probability: (K, D, H, W), uint8: 255 is 1.
        disagreement: (K, D, H, W), uint8: 255 is an even split of the samples.
        mask: (K, D, H, W), bool: the model's mask.
        inner: (K, D, H, W), bool: the filled inner contour; None if the model is not calibrated.
        outer: (K, D, H, W), bool: the filled outer contour, likewise.
        threshold: The model's threshold: the mask is where the probability exceeds it.
        sizes: Area or volume of each region.
        unit: Unit of the sizes, ``px`` or ``ml``.
        unit_size: Size of a pixel or voxel of the scene, in the unit.
        spacing: Distance of slices, rows and columns in mm; None for pictures.
        note: Warning for the user; often empty.
    """

    name: str
    images: Mapping[str, NDArray[np.uint8]]
    regions: tuple[str, ...]
    samples: NDArray[np.bool_]
    probability: NDArray[np.uint8]
    disagreement: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    inner: NDArray[np.bool_] | None
    outer: NDArray[np.bool_] | None
    threshold: float
    sizes: Mapping[str, Size]
    unit: str
    unit_size: float
    spacing: tuple[float, float, float] | None
    note: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        depth, height, width = self.mask.shape[1:]
        return depth, height, width

    @property
    def is_volume(self) -> bool:
        """Whether it is a volume."""
        return self.spacing is not None

    def mask_at(self, threshold: float) -> NDArray[np.bool_]:
        """Return the mask (K, D, H, W) above a threshold. At the model's threshold it is exactly the model's mask."""
        if math.isclose(threshold, self.threshold, abs_tol=0.005):
            return self.mask
        return self.probability > threshold * 255

    def size_at(self, region: int, threshold: float) -> float:
        """Return the area or volume of a region above a threshold, in the unit."""
        if math.isclose(threshold, self.threshold, abs_tol=0.005):
            return self.sizes[self.regions[region]].value
        return float(self.mask_at(threshold)[region].sum() * self.unit_size)


def picture_scene(result: PictureResult, model: Segmenter) -> Scene:
    """Make the scene of a picture."""
    found = result.segmentation
    row = result.rows[0]
    height, width = found.mask.shape[-2:]
    return Scene(
        name=result.name,
        images={COLOURS: np.asarray(result.picture)[None]},
        regions=tuple(model.regions),
        samples=found.binary_samples[0, :, :, None].numpy(),
        probability=_levels(found.probability[0, :, None], 1),
        disagreement=_levels(found.uncertainty[0, :, None], 2),
        mask=found.mask[0, :, None].numpy(),
        inner=None if found.inner is None else found.inner[0, :, None].numpy(),
        outer=None if found.outer is None else found.outer[0, :, None].numpy(),
        threshold=model.threshold,
        sizes={
            row.region: Size(
                row.area, (row.samples_area_min, row.samples_area_max), _interval(row.area_low, row.area_high)
            )
            for row in result.rows
        },
        unit="px",
        unit_size=row.height * row.width / (int(height) * int(width)),
        spacing=None,
        note=result.note,
    )


def volume_scene(result: VolumeResult, model: Segmenter) -> Scene:
    """Make the scene of a volume."""
    found, volume = result.segmentation, result.volume
    images = {name: _grey(channel, volume.brain) for name, channel in zip(model.channels, volume.channels, strict=True)}
    return Scene(
        name=result.name,
        images=images,
        regions=tuple(model.regions),
        samples=found.samples.numpy(),
        probability=_bytes(found.probability, 1),
        disagreement=_bytes(found.uncertainty, 2),
        mask=found.mask,
        inner=found.inner,
        outer=found.outer,
        threshold=model.threshold,
        sizes={
            row.region: Size(
                row.volume_ml,
                (row.samples_ml_min, row.samples_ml_max),
                _interval(row.volume_ml_low, row.volume_ml_high),
            )
            for row in result.rows
        },
        unit="ml",
        unit_size=math.prod(volume.spacing) / 1000,
        spacing=volume.spacing,
        note=result.note,
    )


def _grey(channel: NDArray[Any], brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a channel (D, H, W) in grey."""
    window = grey_window(channel, brain)
    return np.stack([(grey_levels(one, *window) * 255).round().astype(np.uint8) for one in channel])


def _bytes(maps: SteppedMap, scale: int) -> NDArray[np.uint8]:
    """Return maps (K, D, H, W), times a scale, in 8 bits."""
    table = (maps.values_of(np.arange(maps.steps // scale + 1)) * scale * 255).round().astype(np.uint8)
    levels: NDArray[np.uint8] = table[maps.levels]
    return levels


def _levels(maps: Tensor, scale: float) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = (maps.float() * scale * 255).round().clamp(0, 255).byte().numpy()
    return levels


def _interval(low: float, high: float) -> tuple[float, float] | None:
    return None if math.isnan(low) or math.isnan(high) else (low, high)
