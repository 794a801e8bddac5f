"""Diffusion-based medical image segmentation."""
