"""Times side by side in one run: machines are noisy, so the settings take turns, and the median counts."""

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)


def best_device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def median_seconds(work: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, float]:
    """Time each piece of work ``rounds`` times, in turns, after a first round that warms up.

    Args:
        work: What to time.
        rounds: How often.

    Returns:
        The median seconds of each.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in work}
    for number in range(rounds + 1):
        for key, piece in work.items():
            gc.collect()
            start = _now()
            piece()
            if number:
                seconds[key].append(_now() - start)
    return {key: statistics.median(taken) for key, taken in seconds.items()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def hardware() -> str:
    """Name what a benchmark ran on, for the line above its table."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
