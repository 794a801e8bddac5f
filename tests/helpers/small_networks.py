"""Networks small enough for tests."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from _pytest.mark import ParameterSet

import diffmedseg.models
from diffmedseg.models import Denoiser, MedSegDiffLite, MedSegDiffV1
from diffmedseg.models.medsegdiff.patches import WRITERS

AnyDenoiser = TypeVar("AnyDenoiser", bound=Denoiser)

#: Arguments of MedSegDiffLite, by what they are called in tests: every setting that changes its step network.
LITE_DESIGNS: dict[str, dict[str, Any]] = {
    **{name: {"patches": name} for name in WRITERS if name != "apart"},
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
