"""Noise processes, reverse processes and training losses."""

from diffmedseg.diffusion.encoding import mask_to_x, x_to_mask
from diffmedseg.diffusion.loss import DiffusionLoss, PriorLoss
from diffmedseg.diffusion.process import NoiseProcess
from diffmedseg.diffusion.sampling import ReverseProcess
from diffmedseg.keyed_random import keyed_generator, keyed_integers, keyed_normal

__all__ = [
    "DiffusionLoss",
    "NoiseProcess",
    "PriorLoss",
    "ReverseProcess",
    "keyed_generator",
    "keyed_integers",
    "keyed_normal",
    "mask_to_x",
    "x_to_mask",
]
