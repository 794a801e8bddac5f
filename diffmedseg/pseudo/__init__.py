"""Pseudo masks: masks for training images that took no mask, filtered and with unsure pixels left out."""
