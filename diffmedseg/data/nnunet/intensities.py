"""Ranges of channels with values that mean the same in every case, such as CT. nnU-Net clips to the same ranges."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from diffmedseg.data.cache import build_once, files_key
from diffmedseg.data.mri.layout import Case, Layout
from diffmedseg.errors import DataError
from diffmedseg.files import read_json

#: Percentiles of the foreground that become -1 and 1. nnU-Net clips CT to the same percentiles.
PERCENTILES = (0.5, 99.5)
_VOXELS = 10_000  # drawn from the foreground of each case, as in nnU-Net
_log = logging.getLogger(__name__)


def foreground_ranges(
    cache: Path,
    name: str,
    layout: Layout,
    cases: Sequence[Case],
    channels: Sequence[str],
    allowed: set[int],
    ignore: int | None,
) -> dict[str, tuple[float, float]]:
    """Return the percentiles of the foreground of all cases, measured once for the same files.

    Args:
        cache: Folder of the cache.
        name: Name of the data set.
        layout: Reads the cases.
        cases: The cases; no test cases.
        channels: The channels to measure.
        allowed: The values of the label scheme.
        ignore: The value of voxels with an unknown label; these voxels are left out.

    Raises:
        DataError: If a case cannot be read, there is no foreground, or a channel is constant in it.
    """
    files = ((case.id, path) for case in cases for path in case.files)
    target = (
        cache / f"{name}-ranges-{files_key(files, (PERCENTILES, _VOXELS, list(channels), sorted(allowed), ignore))}"
    )

    def write(folder: Path) -> None:
        numbers = [layout.modalities.index(channel) for channel in channels]
        samples = [_sample(layout, case, numbers, allowed, ignore)
                   for case in track(cases, f"Measuring {name}", disable=len(cases) < 20)]  # fmt: skip
        values = np.concatenate(samples, 1)
        if not values.size:
            raise DataError(f"No case of {name} has foreground. Set the ranges of {', '.join(channels)} by data.ranges")
        ends = np.percentile(values, PERCENTILES, axis=1).T
        folder.mkdir()
        (folder / "ranges.json").write_text(json.dumps(dict(zip(channels, ends.tolist(), strict=True))))

    build_once(target, 0.01, write)
    try:
        content = read_json(target / "ranges.json").items()
        ranges = {channel: (float(low), float(high)) for channel, (low, high) in content}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"The cache {target} is damaged ({error}). Delete this folder; it will be made again."
        ) from error
    for channel, (low, high) in ranges.items():
        if not low < high:
            raise DataError(f"{channel} of {name} is {low:g} in all of the foreground. Set its range by data.ranges.")
        _log.info("%s: %s from %g to %g becomes -1 to 1.", name, channel, low, high)
    return ranges


def _sample(
    layout: Layout, case: Case, numbers: Sequence[int], allowed: set[int], ignore: int | None
) -> NDArray[np.float32]:
    """Return values of some voxels of the foreground of a case, (channels, voxels)."""
    raw = layout.read(case, allowed)
    foreground = np.flatnonzero((raw.labels > 0) & (raw.labels != (ignore or 0)))
    voxels = np.random.default_rng(0).permutation(foreground)[:_VOXELS]
    values: NDArray[np.float32] = raw.channels[list(numbers)].reshape(len(numbers), -1)[:, voxels]
    return values
