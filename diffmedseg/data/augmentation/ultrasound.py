"""Augment ultrasound images as machines, settings and probes differ."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffmedseg.data.augmentation.standard import Augmentation


class UltrasoundAugmentation(Augmentation):
    """Vary geometry mildly, then gain, contrast, gain over depth and speckle.

    Images are never flipped upside down and hardly rotated, because depth and shadows run down the image. An amount of
    0 switches its variation off. Only geometry changes masks.

    Args:
        degrees: Largest rotation.
        translate: Largest shift, as a fraction of the image.
        scale: Largest zoom, in or out, as a fraction.
        brightness: Largest offset, of the range [0, 1], as the gain changes it after log compression.
        contrast: Largest relative change of contrast, as the dynamic range changes it.
        depth_gain: Largest offset at the lower border, of the range [0, 1]; it grows from 0 at the upper border.
        speckle: Largest standard deviation of multiplicative noise, as a fraction of the value.
        grain: Size of the speckle, in pixels of the grid.
        kwargs: The other arguments of :class:`Augmentation`, by name. ``flip`` is the probability of a
            horizontal flip.
    """

    def __init__(
        self,
        degrees: float = 10.0,
        translate: float = 0.05,
        scale: float = 0.1,
        brightness: float = 0.15,
        contrast: float = 0.2,
        depth_gain: float = 0.15,
        speckle: float = 0.15,
        grain: float = 1.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            degrees=degrees, translate=translate, scale=scale, brightness=brightness, contrast=contrast, **kwargs
        )
        for name, value, most in (("depth_gain", depth_gain, 1.0), ("speckle", speckle, 1.0), ("grain", grain, 32.0)):
            if not 0 <= value <= most:
                raise ValueError(f"{name} is {value}; expected 0 to {most:g}. 0 switches the variation off.")
        self.depth_gain, self.speckle, self.grain = depth_gain, speckle, grain

    def forward(self, image: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Augment a batch; see the base class. All channels of an image get the same change."""
        image, mask = super().forward(image, mask, generators)
        height, width = image.shape[-2:]
        chance, amount = (
            torch.stack([torch.rand(2, generator=generator) for generator in generators]) for _ in range(2)
        )
        ramp = self.depth_gain * (2 * amount[:, :1] - 1) * (chance[:, :1] < self.probability)  # (B, 1)
        strength = self.speckle * amount[:, 1] * (chance[:, 1] < self.probability)  # (B,)
        noise = torch.stack([torch.randn(1, height, width, generator=generator) for generator in generators])
        depth = torch.linspace(0, 1, height)[:, None] * ramp[..., None]  # (B, H, 1)
        change = 1 + strength[:, None, None, None] * _smooth(noise, self.grain)
        lifted = (image + depth[:, None].to(image.device)).clamp(0, 1)
        return (lifted * change.to(image.device)).clamp(0, 1), mask

    def _flips(self, chance: Tensor) -> Tensor:
        """Return whether to flip, (B, 2), bool: never upside down."""
        return (chance < self.flip) & torch.tensor([True, False])


def _smooth(noise: Tensor, size: float) -> Tensor:
    """Blur noise (B, 1, H, W) with a Gaussian, and scale it to a deviation of 1."""
    from kornia.filters import gaussian_blur2d

    if size == 0:
        return noise
    reach = min(int(3 * size) + 1, min(noise.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur2d(noise, 2 * reach + 1, torch.full((len(noise), 2), size))
    return blurred / blurred.std((-2, -1), keepdim=True).clamp(min=1e-6)
