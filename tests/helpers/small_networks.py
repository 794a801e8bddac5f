"""Networks small enough for tests."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn

import diffmedseg.models
from diffmedseg.models import Condition, Denoiser, MedSegDiffLite, MedSegDiffV1

AnyDenoiser = TypeVar("AnyDenoiser", bound=Denoiser)

#: Arguments of MedSegDiffLite, by what they are called in tests: every setting that changes its step network.
LITE_DESIGNS: dict[str, dict[str, Any]] = {
    "interpolated": {"patches": "interpolated"},
    "ff_parser": {"ff_parser": True},
    "dynamic_encoding": {"dynamic_encoding": True},
    "samples": {"prior": "samples"},
    "both": {"ff_parser": True, "dynamic_encoding": True},
}
#: The same of MedSegDiffV1.
V1_DESIGNS: dict[str, dict[str, Any]] = {"image_time": {"image_time": True}, "filter_size": {"filter_size": 32}}


def concrete_denoisers() -> list[type[Denoiser]]:
    classes = (getattr(diffmedseg.models, name) for name in diffmedseg.models.__all__)
    return [c for c in classes if inspect.isclass(c) and issubclass(c, Denoiser) and not inspect.isabstract(c)]


def lite_designs() -> list[ParameterSet]:
    return [pytest.param(partial(MedSegDiffLite, **own), id=f"lite, {name}") for name, own in LITE_DESIGNS.items()]


def v1_designs() -> list[ParameterSet]:
    return [pytest.param(partial(MedSegDiffV1, **own), id=f"V1, {name}") for name, own in V1_DESIGNS.items()]


def small(cls: Callable[..., AnyDenoiser], image_channels: int = 3, mask_channels: int = 1) -> AnyDenoiser:
    """Build a denoiser in its smallest form, with random weights where it starts with zeros."""
    torch.manual_seed(0)
    sized = "size" in inspect.signature(cls).parameters
    options = {"size": "tiny"} if sized else {"encoder": "resnet18"}
    network = cls(image_channels, mask_channels, **options).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


class FewWeights(Denoiser):
    """Two convolutions: all that training, averaging and storing need of a network, at a fraction of its time."""

    def __init__(self, image_channels: int = 3, mask_channels: int = 1) -> None:
        super().__init__(image_channels, mask_channels)
        self.first = nn.Conv2d(image_channels + mask_channels + 1, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.last = nn.Conv2d(8, mask_channels, 3, padding=1)

    def encode(self, image: Tensor) -> Condition:
        return Condition((image,))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        image = condition.features[0].repeat_interleave(len(x_t) // len(condition.features[0]), 0)
        level = (t / 1000).reshape(-1, 1, 1, 1).expand(-1, 1, *x_t.shape[-2:])
        maps = self.first(torch.cat([x_t, image, level], 1))
        return self.last(nn.functional.silu(self.norm(maps)))
