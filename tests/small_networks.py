"""Networks small enough for tests."""

import inspect

import torch

import diffmedseg.models
from diffmedseg.models import Denoiser


def concrete_denoisers():
    classes = (getattr(diffmedseg.models, name) for name in diffmedseg.models.__all__)
    return [c for c in classes if inspect.isclass(c) and issubclass(c, Denoiser) and not inspect.isabstract(c)]


def small(cls, image_channels=3, mask_channels=1):
    """Build a denoiser in its smallest form, with random weights where it starts with zeros."""
    torch.manual_seed(0)
    options = {"size": "tiny"} if "size" in inspect.signature(cls).parameters else {"encoder": "resnet18"}
    network = cls(image_channels, mask_channels, **options).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network
