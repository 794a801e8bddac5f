"""Time of GED, and of all scores of an image, for 64 images of 128 x 128 px with 100 samples and four raters each.

Run ``python experiments/benchmarks/ged_time.py``.
"""

import time

import torch
from jsonargparse import auto_cli
from timing import hardware

from diffmedseg.metrics import generalized_energy_distance
from diffmedseg.metrics.images import score_image


def main(images: int = 64, samples: int = 100, raters: int = 4, side: int = 128) -> None:
    """Print both times.

    Args:
        images: Number of images.
        samples: Samples per image.
        raters: Raters per image.
        side: Side of an image, in pixels.
    """
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    radii = 0.3 + 0.3 * torch.rand(images, samples + raters, 1, 1, generator=generator)
    masks = torch.hypot(x, y) < radii
    start = time.perf_counter()
    for image in masks:
        generalized_energy_distance(image[:samples], image[samples:])
    energy, start = time.perf_counter() - start, time.perf_counter()
    for image in masks:
        image_samples = image[:samples, None].float()
        score_image("", image_samples.mean(0), image_samples, image[samples:, None].to(torch.uint8), 0.5, 0.0)
    print(f"{images} images, {samples} samples, {raters} raters, {side} x {side}; {hardware()}:")
    print(f"GED {energy:.1f} s; all scores of an image {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
