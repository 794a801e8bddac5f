"""Diffusion-based medical image segmentation: a PyTorch Lightning model zoo.

Each name is imported when it is first used: ``import diffmedseg`` does not import torch.
"""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.segmentation import Segmentation as Segmentation
    from diffmedseg.zoo.loading import load_checkpoint as load_checkpoint, load_pretrained as load_pretrained
    from diffmedseg.zoo.source import list_pretrained as list_pretrained

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.segmentation": ["Segmentation"],
        "diffmedseg.zoo.loading": ["load_checkpoint", "load_pretrained"],
        "diffmedseg.zoo.source": ["list_pretrained"],
    },
    ["callbacks", "data", "diffusion", "evaluation", "metrics", "models", "prediction", "zoo"],
)
