"""Diffusion-based medical image segmentation: a PyTorch Lightning model zoo."""

from diffmedseg.segmentation import Segmentation
from diffmedseg.zoo import list_pretrained, load_checkpoint, load_pretrained

__all__ = ["Segmentation", "list_pretrained", "load_checkpoint", "load_pretrained"]
