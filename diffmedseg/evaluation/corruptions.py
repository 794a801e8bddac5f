"""Corrupted copies of photographs, to measure how robust a model is to other cameras, optics and files.

A corruption depends on the image, its name, its severity and a key, such as the name of the case. So every model sees
the same corrupted image. Masks stay valid, since no corruption moves pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmedseg.data.augmentation import variations
from diffmedseg.data.augmentation.hair import draw_hair, random_hair
from diffmedseg.errors import unknown
from diffmedseg.keyed_random import keyed_generator

#: Names of the severities, in the order of the amounts.
SEVERITIES = ("mild", "medium", "strong")


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption.

    Attributes:
        title: Description, with the amounts.
        amounts: An amount for each severity.
        apply: Takes an image (1, 3, H, W) in [0, 1], an amount and a generator; returns the corrupted image.
    """

    title: str
    amounts: tuple[float, float, float]
    apply: Callable[[Tensor, float, torch.Generator], Tensor]


def corrupt(image: Tensor, name: str, severity: str = "medium", key: str = "") -> Tensor:
    """Return a corrupted copy of a photograph.

    Args:
        image: (3, H, W), in [0, 1].
        name: One of :data:`CORRUPTIONS`.
        severity: One of :data:`SEVERITIES`.
        key: Key of the random numbers of noise, hair and the direction of a hue rotation.

    Returns:
        (3, H, W), in [0, 1].

    Raises:
        ValueError: If there is no such corruption or severity, or the image has another shape.
    """
    if name not in CORRUPTIONS:
        raise ValueError(unknown("corruption", name, list(CORRUPTIONS)))
    if severity not in SEVERITIES:
        raise ValueError(unknown("severity", severity, SEVERITIES))
    if image.ndim != 3 or len(image) != 3:
        raise ValueError(f"The image has shape {tuple(image.shape)}; expected (3, H, W), in [0, 1].")
    corruption = CORRUPTIONS[name]
    amount = corruption.amounts[SEVERITIES.index(severity)]
    return corruption.apply(image[None], amount, keyed_generator("corruption", name, key))[0].clamp(0, 1)


def _hue(image: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    sense = 1 - 2 * int(torch.randint(2, (), generator=generator))
    return variations.change_colour(image, _to_batch(sense * math.radians(degrees)), _to_batch(1), torch.ones(1, 3))


def _saturation(image: Tensor, factor: float, _: torch.Generator) -> Tensor:
    return variations.change_colour(image, _to_batch(0), _to_batch(factor), torch.ones(1, 3))


def _white_balance(image: Tensor, gain: float, _: torch.Generator) -> Tensor:
    """Change the white balance: warm for positive gains, cold for negative gains."""
    gains = torch.tensor([[1 + gain, 1.0, 1 - gain]])
    return variations.change_colour(image, _to_batch(0), _to_batch(1), gains)


def _light(image: Tensor, factor: float, _: torch.Generator) -> Tensor:
    return image * factor


def _contrast(image: Tensor, factor: float, _: torch.Generator) -> Tensor:
    mean = image.mean((1, 2, 3), keepdim=True)
    return mean + factor * (image - mean)


def _blur(image: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    pixels = sigma * min(image.shape[-2:])
    return variations.change_focus(image, _to_batch(pixels), _to_batch(-1), pixels)


def _noise(image: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return image + deviation * torch.randn(image.shape, generator=generator)


def _jpeg(image: Tensor, quality: float, _: torch.Generator) -> Tensor:
    return variations.compress(image, _to_batch(quality))


def _vignette(image: Tensor, radius: float, _: torch.Generator) -> Tensor:
    height, width = image.shape[-2:]
    distance = variations.radii((height, width), torch.zeros(1, 2))
    return variations.darken_border(image, distance, _to_batch(radius), _to_batch(0.05), _to_batch(1))


def _hair(image: Tensor, number: float, generator: torch.Generator) -> Tensor:
    return draw_hair(image[0], *random_hair(int(number), min(image.shape[-2:]), generator))[None]


def _resolution(image: Tensor, scale: float, _: torch.Generator) -> Tensor:
    return variations.lower_resolution(image, _to_batch(scale))


def _to_batch(value: float) -> Tensor:
    return torch.tensor([float(value)])


#: By name.
CORRUPTIONS = {
    "hue": Corruption("hue turned by 10, 20, 40 degrees", (10, 20, 40), _hue),
    "saturation": Corruption("saturation times 0.7, 0.4, 0.1", (0.7, 0.4, 0.1), _saturation),
    "warm": Corruption("white balance: red + and blue - 8, 16, 30 %", (0.08, 0.16, 0.3), _white_balance),
    "cold": Corruption("white balance: red - and blue + 8, 16, 30 %", (-0.08, -0.16, -0.3), _white_balance),
    "dark": Corruption("light times 0.8, 0.6, 0.4", (0.8, 0.6, 0.4), _light),
    "bright": Corruption("light times 1.15, 1.3, 1.6; white is clipped", (1.15, 1.3, 1.6), _light),
    "low contrast": Corruption("contrast times 0.75, 0.5, 0.3", (0.75, 0.5, 0.3), _contrast),
    "blur": Corruption("Gaussian blur, sigma 0.5, 1, 2 % of the shorter side", (0.005, 0.01, 0.02), _blur),
    "noise": Corruption("noise of deviation 0.03, 0.06, 0.12 of the range", (0.03, 0.06, 0.12), _noise),
    "jpeg": Corruption("JPEG of quality 40, 20, 10", (40, 20, 10), _jpeg),
    "vignette": Corruption("black outside a circle of 1.2, 1.1, 1 half sides", (1.2, 1.1, 1.0), _vignette),
    "hair": Corruption("6, 15, 30 hairs", (6, 15, 30), _hair),
    "resolution": Corruption("1/2, 1/3, 1/5 of the resolution", (1 / 2, 1 / 3, 1 / 5), _resolution),
}
