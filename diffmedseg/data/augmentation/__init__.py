"""Augmentation of training batches on the device; each image's random numbers come from its own generator."""

from diffmedseg.data.augmentation.dermoscopy import DermoscopyAugmentation
from diffmedseg.data.augmentation.standard import Augmentation
from diffmedseg.data.augmentation.ultrasound import UltrasoundAugmentation

__all__ = ["Augmentation", "DermoscopyAugmentation", "UltrasoundAugmentation"]
