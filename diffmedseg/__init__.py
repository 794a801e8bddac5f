"""Diffusion-based medical image segmentation: a PyTorch Lightning model zoo.

Each name is imported when it is first used: ``import diffmedseg`` does not import torch.
"""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names
from diffmedseg.moved import keep_old_names

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from diffmedseg.experiments import (
        list_datasets as list_datasets,
        list_models as list_models,
        list_presets as list_presets,
    )
    from diffmedseg.recipes import Recipe as Recipe, recipe as recipe
    from diffmedseg.segmentation import Segmentation as Segmentation
    from diffmedseg.zoo.loading import (
        load_checkpoint as load_checkpoint,
        load_model as load_model,
        load_pretrained as load_pretrained,
    )
    from diffmedseg.zoo.source import list_pretrained as list_pretrained

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.experiments": ["list_datasets", "list_models", "list_presets"],
        "diffmedseg.recipes": ["Recipe", "recipe"],
        "diffmedseg.segmentation": ["Segmentation"],
        "diffmedseg.zoo.loading": ["load_checkpoint", "load_model", "load_pretrained"],
        "diffmedseg.zoo.source": ["list_pretrained"],
    },
    [
        "callbacks",
        "data",
        "diffusion",
        "evaluation",
        "export",
        "metrics",
        "models",
        "postprocessing",
        "prediction",
        "zoo",
    ],
)
keep_old_names()
