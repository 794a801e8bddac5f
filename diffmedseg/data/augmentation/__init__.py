"""Augmentation of training batches on the device. Each image has its own generator of random numbers."""

from diffmedseg.data.augmentation.dermoscopy import DermoscopyAugmentation
from diffmedseg.data.augmentation.standard import Augmentation
from diffmedseg.data.augmentation.ultrasound import UltrasoundAugmentation

__all__ = ["Augmentation", "DermoscopyAugmentation", "UltrasoundAugmentation"]
