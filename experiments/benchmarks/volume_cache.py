"""Slices per second from the cache of decoded volumes, and with decoding of NIfTI for each slice, in one run.

Run ``python experiments/benchmarks/volume_cache.py brats2015 /path/to/brats2015``.
"""

import resource
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from timing import hardware

from diffmedseg.data.configured import build_data
from diffmedseg.experiments import data_config


def main(data: str, root: Path, slices: int = 2000, decoded: int = 8) -> None:
    """Print both rates, the time of decoding, and the growth of memory during iteration.

    Args:
        data: Name of the data set.
        root: Folder that contains the cases.
        slices: Number of slices to read from the cache.
        decoded: Number of slices for which a case is decoded.
    """
    settings = data_config(data)
    settings["init_args"] |= {"root": str(root), "folds": 2}
    module = build_data(settings)
    print(hardware())
    start = time.perf_counter()
    module.prepare_data()
    print(f"decoding {len(module.cases)} cases once: {time.perf_counter() - start:.1f} s (0 where they were cached)")
    store, cases = module.load("train"), list(module.cases.values())
    order = torch.randint(len(store), (slices,), generator=torch.Generator().manual_seed(0)).tolist()
    for index in range(len(store)):  # touch every page of the map once
        store.image(index), store.masks(index)
    before, start = _resident(), time.perf_counter()
    for index in order:
        store.image(index), store.masks(index)
    cached = slices / (time.perf_counter() - start)
    grown = _resident() - before
    start = time.perf_counter()
    for number in range(decoded):
        raw = data.layout.read(cases[number % len(cases)], data.allowed)
        raw.channels[:, raw.channels.shape[1] // 2].copy()
    uncached = decoded / (time.perf_counter() - start)
    print(
        f"cache: {cached:,.0f} slices/s; NIfTI for each slice: {uncached:.2f} slices/s; ratio {cached / uncached:,.0f}"
    )
    print(f"memory grew by {grown / 2**20:.1f} MB over {slices} slices")


def _resident() -> int:
    """Return the memory of this process now, in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
