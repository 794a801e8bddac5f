"""Seconds of a dense CRF per image, by its side; the settings take turns.

Run ``python experiments/benchmarks/crf_time.py``.
"""

import statistics
import time

import torch
from jsonargparse import auto_cli

from diffmedseg.crf import CRFSettings, crf_marginals


def main(sides: list[int] = [64, 128, 256, 512], rounds: int = 5) -> None:  # noqa: B006
    """Print the table.

    Args:
        sides: Sides of square images, in pixels.
        rounds: How often each is taken; the median counts.
    """
    generator = torch.Generator().manual_seed(0)
    images = {side: torch.rand(3, side, side, generator=generator) * 2 - 1 for side in sides}
    maps = {side: torch.rand(1, side, side, generator=generator) for side in sides}
    taken: dict[tuple[int, int], list[float]] = {}
    for _ in range(rounds):
        for side in sides:
            for iterations in (5, 10):
                start = time.perf_counter()
                crf_marginals(images[side], maps[side], CRFSettings(iterations, reference_size=512))
                taken.setdefault((side, iterations), []).append(time.perf_counter() - start)
    print("| side, px | seconds, 5 iterations | 10 iterations |\n|---|---|---|")
    for side in sides:
        times = [f"{statistics.median(taken[side, iterations]):.3f}" for iterations in (5, 10)]
        print(f"| {side} | {' | '.join(times)} |")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
