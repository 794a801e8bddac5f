"""Intervals of a mean over cases."""

import numpy as np
from numpy.typing import ArrayLike

_AT_ONCE = 2**22  # numbers drawn together: bounds the memory


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13).

    Args:
        values: One number per case; NaN is left out.
        confidence: Coverage wanted.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Lower and upper end; NaN for both where there are fewer than two values, whose spread nobody knows.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[~np.isnan(numbers)]
    if numbers.size < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    rows = max(_AT_ONCE // numbers.size, 1)
    means = np.concatenate(
        [
            numbers[rng.integers(numbers.size, size=(min(rows, draws - first), numbers.size))].mean(1)
            for first in range(0, draws, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
