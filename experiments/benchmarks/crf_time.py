"""Time of a dense CRF in seconds per image, by side of the image.

Run ``python experiments/benchmarks/crf_time.py``.
"""

from functools import partial

import torch
from jsonargparse import auto_cli
from timing import hardware, median_seconds

from diffmedseg.postprocessing.crf import CRFSettings, crf_marginals


def main(sides: list[int] = [64, 128, 256, 512], rounds: int = 5) -> None:  # noqa: B006
    """Print the table.

    Args:
        sides: Sides of square images, in pixels.
        rounds: Number of timings per side.
    """
    generator = torch.Generator().manual_seed(0)
    images = {side: torch.rand(3, side, side, generator=generator) * 2 - 1 for side in sides}
    maps = {side: torch.rand(1, side, side, generator=generator) for side in sides}
    seconds = median_seconds(
        {
            (side, n): partial(crf_marginals, images[side], maps[side], CRFSettings(n, reference_size=512))
            for side in sides
            for n in (5, 10)
        },
        rounds,
    )
    print(f"{hardware()}\n")
    print("| side, px | seconds, 5 iterations | 10 iterations |\n|---|---|---|")
    for side in sides:
        print(f"| {side} | {seconds[side, 5]:.3f} | {seconds[side, 10]:.3f} |")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
