"""Times side by side in one run: machines are noisy, so the settings take turns, and the median counts."""

import gc
import platform
import re
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)


def best_device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def median_seconds(
    work: Mapping[Key, Callable[[], object]], rounds: int, clock: Callable[[], float] | None = None
) -> dict[Key, float]:
    """Time each piece of work ``rounds`` times, in turns, after a first round that warms up.

    Args:
        work: What to time.
        rounds: How often.
        clock: What tells the time in seconds, such as ``time.process_time``, which other programs on the machine hardly
            change; None for the time that passes.

    Returns:
        The median seconds of each.
    """
    now = clock or _now
    seconds: dict[Key, list[float]] = {key: [] for key in work}
    for number in range(rounds + 1):
        for key, piece in work.items():
            gc.collect()
            start = now()
            piece()
            if number:
                seconds[key].append(now() - start)
    return {key: statistics.median(taken) for key, taken in seconds.items()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def hardware() -> str:
    """Name what a benchmark ran on, and the day, for the line above its table."""
    where = f"{processor()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    return f"{time.strftime('%Y-%m-%d')}; {where}, torch {torch.__version__}"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor; Python knows no more than its architecture on Linux."""
    named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return named[1] if named else platform.processor() or platform.machine()
