"""A segmenter that needs no training: what is dark is foreground. And pictures of a dark disc for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.keyed_random import keyed_normal
from diffmedseg.models import Condition, Denoiser, DiffusionSegmenter
from diffmedseg.models.drawing import Generators
from diffmedseg.segmentation import SampleSet


class NoNetwork(Denoiser):
    """Has one weight, which does nothing."""

    def __init__(self, image_channels: int, mask_channels: int) -> None:
        super().__init__(image_channels, mask_channels)
        self.level = torch.nn.Parameter(torch.zeros(1))

    def encode(self, image: Tensor) -> Condition:
        return Condition((image,))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        return x_t


class DarkSegmenter(DiffusionSegmenter):
    """Region k is where the image is darker than -k / 2, up to some keyed noise."""

    name = "dark"

    def training_loss(self, batch: Batch) -> Tensor:
        return next(self.denoiser.parameters()).sum()

    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        levels = torch.arange(len(self.regions)).reshape(1, 1, -1, 1, 1) / 2
        noise = torch.stack(
            [keyed_normal((len(self.regions), *self.image_size), row, image.device) for row in generators]
        )
        brightness = image.mean(1)[:, None, None] + levels + 0.05 * noise
        return SampleSet((0.5 - 5 * brightness).clamp(0, 1))


class BrightSegmenter(DarkSegmenter):
    """The lesion is where the first channel is bright."""

    name = "bright"

    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        return super().draw_samples(0.6 - 3 * image[:, :1], generators, num_steps)


def bright_segmenter(channels: Sequence[str], regions: Sequence[str] = ("lesion",), **options: Any) -> DarkSegmenter:
    return dark_segmenter(channels, regions, cls=BrightSegmenter, **options)


def dark_segmenter(
    channels: Sequence[str] = ("red", "green", "blue"),
    regions: Sequence[str] = ("lesion",),
    cls: type[DarkSegmenter] = DarkSegmenter,
    **options: Any,
) -> DarkSegmenter:
    network = NoNetwork(len(channels), len(regions))
    settings: dict[str, Any] = {"image_size": (32, 32), "num_samples": 3, "num_steps": 1, "nested": len(regions) > 1}
    return cls(network, channels=channels, regions=regions, **settings | options).eval()


def disc(width: int = 90, height: int = 60, left: int = 0) -> NDArray[np.bool_]:
    """Where the disc is, (h, w): off the middle, so that every way to turn the picture moves it."""
    y, x = np.mgrid[:height, :width]
    return (x - 0.3 * width - left) ** 2 + (y - 0.35 * height) ** 2 < (0.22 * height) ** 2


def picture(width: int = 90, height: int = 60, left: int = 0) -> Image.Image:
    """A dark disc on a bright ground, RGB."""
    return Image.fromarray(
        np.where(disc(width, height, left)[..., None], [40, 30, 20], [230, 220, 240]).astype(np.uint8)
    )
