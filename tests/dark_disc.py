"""A segmenter that needs no training: what is dark is foreground. And pictures of a dark disc for it."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffmedseg.keyed_random import keyed_normal
from diffmedseg.models import Condition, Denoiser, DiffusionSegmenter
from diffmedseg.segmentation import Drawn


class NoNetwork(Denoiser):
    def __init__(self, image_channels, mask_channels):
        super().__init__(image_channels, mask_channels)
        self.level = torch.nn.Parameter(torch.zeros(1))

    def encode(self, image: Tensor) -> Condition:
        return Condition((image,))

    def forward(self, x_t, t, condition, label=None):
        return x_t


class DarkSegmenter(DiffusionSegmenter):
    """Region k is where the image is darker than -k / 2, up to some keyed noise."""

    name = "dark"

    def training_loss(self, batch):
        return self.denoiser.level.sum()

    def draw_samples(self, image, generators, num_steps):
        levels = torch.arange(len(self.regions)).reshape(1, 1, -1, 1, 1) / 2
        noise = torch.stack(
            [keyed_normal((len(self.regions), *self.image_size), row, image.device) for row in generators]
        )
        brightness = image.mean(1)[:, None, None] + levels + 0.05 * noise
        return Drawn((0.5 - 5 * brightness).clamp(0, 1))


class BrightSegmenter(DarkSegmenter):
    """The lesion is where the first channel is bright."""

    name = "bright"

    def draw_samples(self, image, generators, num_steps):
        return super().draw_samples(0.6 - 3 * image[:, :1], generators, num_steps)


def bright_segmenter(channels, regions=("lesion",), **options):
    return dark_segmenter(channels, regions, cls=BrightSegmenter, **options)


def dark_segmenter(channels=("red", "green", "blue"), regions=("lesion",), cls=DarkSegmenter, **options):
    network = NoNetwork(len(channels), len(regions))
    settings = {"image_size": (32, 32), "num_samples": 3, "num_steps": 1, "nested": len(regions) > 1}
    return cls(network, channels=channels, regions=regions, **settings | options).eval()


def disc(width=90, height=60, left=0):
    """Where the disc is, (h, w): off the middle, so that every way to turn the picture moves it."""
    y, x = np.mgrid[:height, :width]
    return (x - 0.3 * width - left) ** 2 + (y - 0.35 * height) ** 2 < (0.22 * height) ** 2


def picture(width=90, height=60, left=0):
    """A dark disc on a bright ground, RGB."""
    return Image.fromarray(
        np.where(disc(width, height, left)[..., None], [40, 30, 20], [230, 220, 240]).astype(np.uint8)
    )
