"""Augment dermoscopic photographs as cameras, dermatoscopes and clinics differ."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffmedseg.data.augmentation import variations
from diffmedseg.data.augmentation.hair import draw_hair, random_hair
from diffmedseg.data.augmentation.standard import Augmentation

_CORNER = math.sqrt(2)  # distance of a corner from the middle, in half sides


class DermoscopyAugmentation(Augmentation):
    """Vary geometry and brightness as :class:`Augmentation` does, then colour, optics, skin hair and compression.

    An amount of 0 switches its variation off. Hue, saturation, white balance and gamma change together, with
    ``probability``. Each other variation happens with probability ``rare``, independently, and costs nothing for the
    other images. Only geometry changes masks.

    Args:
        scale: Largest zoom, in or out, as a fraction. It is larger than in :class:`Augmentation`, because the
            magnification of dermatoscopes differs.
        hue: Largest rotation of the hue, in degrees.
        saturation: Largest relative change of saturation.
        white_balance: Largest relative change of the gain of a channel, drawn separately for each channel.
        gamma: Largest absolute value of the logarithm of gamma.
        blur: Largest standard deviation of a Gaussian blur, as a fraction of the shorter side.
        sharpen: Largest share of detail that an unsharp mask adds.
        resolution: Largest share of rows and columns that is lost.
        noise: Largest standard deviation of sensor noise, of the range [0, 1].
        vignette: Largest share of light that is lost outside a circle; 1 is a black border. The circle never covers
            the mask's foreground.
        hair: Largest number of hairs.
        jpeg: Largest loss of JPEG quality: 80 compresses with qualities 20 to 100.
        rare: Probability of each of blur, sharpening, loss of resolution, noise, vignette, hair and JPEG.
        kwargs: The other arguments of :class:`Augmentation`, by name.
    """

    def __init__(
        self,
        scale: float = 0.3,
        hue: float = 10.0,
        saturation: float = 0.3,
        white_balance: float = 0.12,
        gamma: float = 0.25,
        blur: float = 0.012,
        sharpen: float = 1.0,
        resolution: float = 0.6,
        noise: float = 0.04,
        vignette: float = 1.0,
        hair: int = 12,
        jpeg: float = 80.0,
        rare: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale=scale, **kwargs)
        limits = {
            "hue": (hue, 180.0), "saturation": (saturation, 1.0), "white_balance": (white_balance, 0.9),
            "gamma": (gamma, 3.0), "blur": (blur, 0.1), "sharpen": (sharpen, 10.0), "resolution": (resolution, 0.95),
            "noise": (noise, 1.0), "vignette": (vignette, 1.0), "hair": (hair, 1000), "jpeg": (jpeg, 99.0),
            "rare": (rare, 1.0),
        }  # fmt: skip
        for name, (value, most) in limits.items():
            if not 0 <= value <= most:
                raise ValueError(f"{name} is {value}; expected 0 to {most:g}. 0 switches the variation off.")
        self.hue, self.saturation, self.white_balance, self.gamma = hue, saturation, white_balance, gamma
        self.blur, self.sharpen, self.resolution, self.noise = blur, sharpen, resolution, noise
        self.vignette, self.hair, self.jpeg, self.rare = vignette, hair, jpeg, rare

    def forward(self, image: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            image: (B, C, H, W), in [0, 1]: red, green and blue, once or several times (an image and its healthy
                counterpart). All get the same parameters.
            mask: (B, K, H, W), in {0, 1}.
            generators: B generators on the CPU.

        Returns:
            Image in [0, 1] and mask in {0, 1}, of the same shapes.

        Raises:
            ValueError: If the channels are not red, green and blue.
        """
        if image.shape[1] % 3:
            raise ValueError(
                f"Images have {image.shape[1]} channels; DermoscopyAugmentation expects colour photographs (3). "
                "Choose diffmedseg.data.Augmentation for other images."
            )
        image, mask = super().forward(image, mask, generators)
        photographs = image.view(len(image), -1, 3, *image.shape[2:])  # (B, N, 3, H, W), changed in place
        chance = torch.stack([torch.rand(7, generator=generator) for generator in generators])  # in [0, 1)
        amount = torch.stack([torch.rand(16, generator=generator) for generator in generators])
        rare = chance[:, 1:] < self.rare
        self._add_hair(photographs, rare[:, 0], generators)
        self._darken(photographs, rare[:, 1], amount[:, :5], mask)
        self._refocus(photographs, rare[:, 2], rare[:, 3], amount[:, 5:8])
        self._recolour(photographs, chance[:, 0] < self.probability, amount[:, 8:14] * 2 - 1)
        self._record(photographs, rare[:, 4], rare[:, 5], amount[:, 14:], generators)
        return photographs.flatten(1, 2), mask

    def _add_hair(self, photographs: Tensor, chosen: Tensor, generators: Sequence[torch.Generator]) -> None:
        for row in chosen.nonzero()[:, 0].tolist() if self.hair else ():
            number = int(torch.randint(1, self.hair + 1, (), generator=generators[row]))
            hair = random_hair(number, min(photographs.shape[-2:]), generators[row])
            curves, width, colour = (value.to(photographs.device) for value in hair)
            photographs[row] = torch.stack([draw_hair(image, curves, width, colour) for image in photographs[row]])

    def _darken(self, photographs: Tensor, chosen: Tensor, amount: Tensor, mask: Tensor) -> None:
        """Darken the border; amounts (B, 5) in [0, 1). The circle leaves the mask's foreground free."""
        if not self.vignette:
            return
        height, width = mask.shape[-2:]
        distance = variations.radii((height, width), 0.2 * amount[:, :2] - 0.1)
        foreground = mask.any(1).to(distance.device) if mask.shape[1] else torch.zeros_like(distance)
        # From circles a little smaller than the image to circles that touch only the corners.
        radius = torch.maximum(0.9 + 0.4 * amount[:, 2], (distance * foreground).amax((-1, -2)))
        softness = 0.02 + 0.5 * amount[:, 3] ** 2  # mostly sharp
        darkness = self.vignette * (1 - amount[:, 4] ** 2)  # mostly dark
        _change(photographs, chosen, variations.darken_border, distance, radius, softness, darkness)

    def _refocus(self, photographs: Tensor, chosen: Tensor, coarse: Tensor, amount: Tensor) -> None:
        """Blur or sharpen what is chosen, and lower the resolution of what is coarse; amounts (B, 3) in [0, 1)."""
        largest = self.blur * min(photographs.shape[-2:])
        if self.blur or self.sharpen:
            # Either blur or sharpen, among those that are switched on.
            blurred = amount[:, 0] < (0.5 if self.blur and self.sharpen else float(self.blur > 0))
            sigma = torch.where(blurred, largest * amount[:, 1], 1.0).clamp(min=0.05)
            sharpness = torch.where(blurred, -1.0, self.sharpen * amount[:, 1])
            change = partial(variations.change_focus, largest=max(largest, 1.0))
            _change(photographs, chosen, change, sigma, sharpness)
        if self.resolution:
            _change(photographs, coarse, variations.lower_resolution, 1 - self.resolution * amount[:, 2])

    def _recolour(self, photographs: Tensor, chosen: Tensor, amount: Tensor) -> None:
        """Change hue, saturation, white balance and gamma; amounts (B, 6) in [-1, 1)."""
        if self.hue or self.saturation or self.white_balance:
            hue, saturation = math.radians(self.hue) * amount[:, 0], 1 + self.saturation * amount[:, 1]
            gains = 1 + self.white_balance * amount[:, 2:5]
            _change(photographs, chosen, variations.change_colour, hue, saturation, gains)
        if self.gamma:
            _change(photographs, chosen, variations.change_gamma, (self.gamma * amount[:, 5]).exp())

    def _record(
        self,
        photographs: Tensor,
        noisy: Tensor,
        compressed: Tensor,
        amount: Tensor,
        generators: Sequence[torch.Generator],
    ) -> None:
        """Add sensor noise and compress as JPEG; amounts (B, 2) in [0, 1)."""
        for row in noisy.nonzero()[:, 0].tolist() if self.noise else ():
            noise = self.noise * amount[row, 0] * torch.randn(photographs.shape[1:], generator=generators[row])
            photographs[row] = (photographs[row] + noise.to(photographs.device)).clamp(0, 1)
        if self.jpeg:
            _change(photographs, compressed, variations.compress, 100 - self.jpeg * amount[:, 1])


def _change(photographs: Tensor, chosen: Tensor, change: Callable[..., Tensor], *amounts: Tensor) -> None:
    """Change the chosen (B,) of photographs (B, N, 3, H, W) in place, all N of an image by the same amounts."""
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        originals = photographs[rows]
        values = [amount[rows].to(photographs.device).repeat_interleave(originals.shape[1], 0) for amount in amounts]
        photographs[rows] = change(originals.flatten(0, 1), *values).view_as(originals)
