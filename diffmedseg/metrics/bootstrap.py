"""Bootstrap intervals of a mean over cases."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_AT_ONCE = 2**22  # numbers that are drawn together, to limit memory


def bootstrap_interval(
    values: ArrayLike,
    confidence: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    patients: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13).

    Cases of one patient are similar, so an interval over cases would be too narrow. If ``patients`` are given, whole
    patients are drawn, each with all its cases (cluster bootstrap). The mean remains the mean over cases.

    Args:
        values: One number per case; NaN is left out.
        confidence: Coverage of the interval.
        draws: Number of resamples.
        seed: Seed of the resamples.
        patients: The patient of each case; None if each case is another patient.

    Returns:
        Lower and upper end; NaN for both if there are fewer than two values or fewer than two patients.
    """
    numbers = np.asarray(values, dtype=float)
    kept = ~np.isnan(numbers)
    sums, sizes = numbers[kept], None
    if patients is not None:
        order: dict[Hashable, int] = {}
        patient = np.array([order.setdefault(name, len(order)) for name in patients], dtype=np.intp)[kept]
        _, patient = np.unique(patient, return_inverse=True)
        if len(patient) and patient.max() + 1 < len(patient):
            sums, sizes = np.bincount(patient, sums), np.bincount(patient)
    if sums.size < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    rows = max(_AT_ONCE // sums.size, 1)
    means = [_means(rng, min(rows, draws - first), sums, sizes) for first in range(0, draws, rows)]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _means(
    rng: np.random.Generator, draws: int, sums: NDArray[np.float64], sizes: NDArray[np.intp] | None
) -> NDArray[np.float64]:
    """Draw patients with replacement, and average over their cases."""
    indices = rng.integers(sums.size, size=(draws, sums.size))
    means: NDArray[np.float64] = (
        sums[indices].mean(1) if sizes is None else sums[indices].sum(1) / sizes[indices].sum(1)
    )
    return means
