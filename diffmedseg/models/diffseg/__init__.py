"""DiffSeg: segmentation by diffusion difference."""
