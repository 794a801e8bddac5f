"""Time settings in turns in one run, and report medians, because machines are noisy."""

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
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def median_seconds(
    work: Mapping[Key, Callable[[], object]], rounds: int, clock: Callable[[], float] | None = None
) -> dict[Key, float]:
    """Time functions in turns, after a first round as warm-up.

    Args:
        work: The functions to time.
        rounds: Number of timings per function.
        clock: Clock in seconds, such as ``time.process_time``, on which other programs on the machine have little
            effect. None for wall-clock time.

    Returns:
        The median seconds of each function.
    """
    read_clock = clock or _now
    seconds: dict[Key, list[float]] = {key: [] for key in work}
    for number in range(rounds + 1):
        for key, piece in work.items():
            gc.collect()
            start = read_clock()
            piece()
            if number:
                seconds[key].append(read_clock() - start)
    return {key: statistics.median(values) for key, values in seconds.items()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def hardware() -> str:
    """Return the hardware of a benchmark and the date, for the line above its table."""
    device = f"{processor()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return f"{time.strftime('%Y-%m-%d')}; {device}, torch {torch.__version__}"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor. On Linux, Python itself knows only its architecture."""
    match = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return match[1] if match else platform.processor() or platform.machine()
