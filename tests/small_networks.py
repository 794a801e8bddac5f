"""Networks small enough for tests."""

import inspect
from functools import partial

import pytest
import torch

import diffmedseg.models
from diffmedseg.models import Denoiser, MedSegDiffLite, MedSegDiffV1

#: Arguments of MedSegDiffLite, by what they are called in tests: every setting that changes its step network.
LITE_DESIGNS = {
    "interpolated": {"patches": "interpolated"},
    "ff_parser": {"ff_parser": True},
    "dynamic_encoding": {"dynamic_encoding": True},
    "samples": {"prior": "samples"},
    "both": {"ff_parser": True, "dynamic_encoding": True},
}
#: The same of MedSegDiffV1.
V1_DESIGNS = {"image_time": {"image_time": True}, "filter_size": {"filter_size": 32}}


def concrete_denoisers():
    classes = (getattr(diffmedseg.models, name) for name in diffmedseg.models.__all__)
    return [c for c in classes if inspect.isclass(c) and issubclass(c, Denoiser) and not inspect.isabstract(c)]


def lite_designs():
    return [pytest.param(partial(MedSegDiffLite, **own), id=f"lite, {name}") for name, own in LITE_DESIGNS.items()]


def v1_designs():
    return [pytest.param(partial(MedSegDiffV1, **own), id=f"V1, {name}") for name, own in V1_DESIGNS.items()]


def small(cls, image_channels=3, mask_channels=1):
    """Build a denoiser in its smallest form, with random weights where it starts with zeros."""
    torch.manual_seed(0)
    options = {"size": "tiny"} if "size" in inspect.signature(cls).parameters else {"encoder": "resnet18"}
    network = cls(image_channels, mask_channels, **options).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network
