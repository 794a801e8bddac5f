"""Contours and areas that hold the truth as often as they say, fitted on validation cases.

Fitted from the sums that scoring a case leaves (:class:`~diffmedseg.metrics.images.ImageScore`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.metrics.images import ImageScore


@dataclass(frozen=True)
class ConformalContours:
    """Levels of the probability whose contours lie within, and around, the truth as often as they say.

    Split conformal prediction (Vovk et al. 2005; Angelopoulos & Bates 2021, arXiv 2107.07511) over cases: for a new
    case that is drawn like those fitted on, each of both statements holds with probability ``coverage`` at least.

    Attributes:
        inner: Where the probability is at least this, ``share`` of the pixels or more belong to the lesion; infinite
            where only an empty contour keeps that.
        outer: Where the probability is at least this, ``share`` of the lesion or more is found.
        share: In (0, 1].
        coverage: In (0, 1).
        cases: Cases that it was fitted on.
    """

    inner: float
    outer: float
    share: float
    coverage: float
    cases: int

    def apply(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inner and the outer contour, filled: bool, of the shape of the probability."""
        return probability >= self.inner, probability >= self.outer

    @classmethod
    def fit(
        cls, images: Iterable[ImageScore], region: int = 0, share: float = 0.95, coverage: float = 0.9
    ) -> "ConformalContours":
        """Fit to cases whose probability was not fitted to them.

        Args:
            images: Pooled sums of each case. With several raters the truth is their mean.
            region: The region.
            share: What share of the pixels has to be right.
            coverage: How often.

        Raises:
            ValueError: If there are too few cases for the coverage: n has to be at least coverage / (1 - coverage).
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it has to lie in (0, 1].")
        levels = np.array([contour_levels(image.reliability[0, region], share) for image in images]).reshape(-1, 2)
        inner = _conformal_quantile(levels[:, 0], coverage)
        outer = -_conformal_quantile(-levels[:, 1], coverage)
        return cls(inner, outer, share, coverage, len(levels))


def contour_levels(counts: Tensor, share: float) -> tuple[float, float]:
    """Return the lowest level whose contour lies within the truth of a case, and the highest that holds it.

    Args:
        counts: (3, bins), of :func:`~diffmedseg.metrics.calibration.reliability_counts`, of one case.
        share: What share of the pixels within the contour, and of the truth, has to be right.

    Returns:
        Multiples of the width of a bin in [0, 1]; the first infinite where even the surest pixels are wrong. Where
        there is no lesion every outer contour holds it.
    """
    pixels, _, truth = counts.double().flip(1).cumsum(1)  # above the lower edge of a bin, from the highest one down
    edges = 1 - torch.arange(1, counts.shape[1] + 1) / counts.shape[1]
    right = truth >= share * pixels - 1e-9
    within = int((~right).nonzero()[0]) if (~right).any() else len(edges)  # bins that can be added before it fails
    inner = math.inf if within == 0 else float(edges[within - 1])
    holds = truth >= share * truth[-1] - 1e-9
    return inner, 1.0 if truth[-1] == 0 else float(edges[int(holds.nonzero()[0])])


@dataclass(frozen=True)
class ConformalArea:
    """An interval for the area of a lesion, or its volume, from those of the samples.

    Conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222) on logarithms: from the samples' least area
    divided by a factor to their largest times it. What is less than a pixel counts as nothing.

    Attributes:
        factor: At least 1: samples that are spread too wide stay so.
        coverage: How often the true one lies within, at least.
        cases: Cases that it was fitted on.
    """

    factor: float
    coverage: float
    cases: int

    def interval(self, areas: Sequence[float]) -> tuple[float, float]:
        """Return the interval for one case, from its samples' areas in pixels or voxels."""
        low = min(areas) / self.factor
        return (low if low >= 1 else 0.0), max(max(areas), 1) * self.factor

    @classmethod
    def fit(cls, images: Iterable[ImageScore], region: int = 0, coverage: float = 0.9) -> "ConformalArea":
        """Fit to cases that the model was not trained on.

        Args:
            images: Pooled sums of each case. With several raters the truth is their mean area.
            region: The region.
            coverage: How often the interval has to hold the truth.

        Raises:
            ValueError: If there are too few cases.
        """
        needed = np.array([area_factor(*case_areas(image, region)) for image in images])
        return cls(max(_conformal_quantile(needed, coverage), 1.0), coverage, len(needed))


def case_areas(image: ImageScore, region: int) -> tuple[list[float], float]:
    """Return the areas of a case's samples, and of its truth, in pixels or voxels."""
    areas = image.pairs[0, region].diagonal().tolist()
    return areas[: image.num_samples], float(np.mean(areas[image.num_samples :]))


def area_factor(samples: Sequence[float], truth: float) -> float:
    """Return the least factor of :class:`ConformalArea` whose interval holds the truth."""
    above = truth / max(max(samples), 1)
    # Below one pixel the interval reaches down to nothing.
    below = min(samples) / truth if truth >= 1 else np.nextafter(min(samples), math.inf)
    return float(max(above, below))


def _conformal_quantile(scores: NDArray[np.float64], coverage: float) -> float:
    """Return the smallest score that a new one stays below with the coverage: the ceil((n + 1) coverage)-th."""
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}; it has to lie between 0 and 1.")
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    if rank > len(scores):
        raise ValueError(
            f"{len(scores)} cases are too few for a coverage of {coverage:g}: "
            f"{math.ceil(coverage / (1 - coverage) - 1e-9)} are needed."
        )
    return float(np.sort(scores)[rank - 1])
