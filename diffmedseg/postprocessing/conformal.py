"""Contours and areas with a stated coverage, fitted on validation cases.

They are fitted to the sums of scored cases (:class:`~diffmedseg.metrics.images.ImageScore`).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.errors import TooFewCasesError
from diffmedseg.metrics.calibration import FINE_BINS, fine_bins
from diffmedseg.metrics.images import ImageScore
from diffmedseg.metrics.scores import CoverageCheck
from diffmedseg.precision import with_float64
from diffmedseg.wording import count


class Conformal(Configurable):
    """An inner and an outer contour of each region, and an interval of its area, with a stated coverage.

    Split conformal prediction over cases (Vovk et al. 2005; Angelopoulos & Bates 2021, arXiv 2107.07511): for a new
    case drawn like the cases of the fit, each statement holds with a probability of at least ``coverage``. Areas and
    volumes use conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222) on logarithms: the interval is
    from the smallest area of the samples divided by a factor to the largest times the factor. Less than a pixel counts
    as 0.

    Args:
        inner: Level of the inner contour of each region. Where the uncalibrated probability is at least this, at least
            ``share`` of the pixels belong to the lesion. Infinite if only an empty contour holds.
        outer: Level of the outer contour of each region. Where the probability is at least this, at least ``share`` of
            the lesion is found.
        area_factor: Factor of each region's interval of area, at least 1. It never narrows the spread of the samples.
        share: Fraction of pixels that has to be right, in (0, 1].
        coverage: Coverage of each statement, in (0, 1).
        cases: Number of cases of the fit.
        num_samples: S of the fit.
        num_steps: Number of steps of the fit.
    """

    def __init__(
        self,
        inner: Sequence[float],
        outer: Sequence[float],
        area_factor: Sequence[float],
        share: float,
        coverage: float,
        cases: int,
        num_samples: int,
        num_steps: int,
    ) -> None:
        self.inner, self.outer, self.area_factor = list(inner), list(outer), list(area_factor)
        if not len(self.inner) == len(self.outer) == len(self.area_factor):
            raise ValueError(
                f"inner, outer and area_factor need one value per region; got {len(self.inner)}, {len(self.outer)} and "
                f"{len(self.area_factor)}."
            )
        self.share, self.coverage, self.cases = share, coverage, cases
        self.num_samples, self.num_steps = num_samples, num_steps

    def contours(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Return the filled inner and outer contour of an uncalibrated probability (..., K, H, W).

        Bins are compared, not probabilities, since float32 values may miss the edges of the bins of the fit.

        Returns:
            Inner and outer contour, the same shape, bool.
        """
        bins = fine_bins(probability)
        inner, outer = (
            (torch.tensor(levels, dtype=torch.float64) * FINE_BINS).round().float().to(bins.device)[:, None, None]
            for levels in (self.inner, self.outer)
        )
        return bins >= inner, bins >= outer

    def areas(self, samples: Tensor, most: float = math.inf) -> Tensor:
        """Return the interval of each region, (2, K), in pixels or voxels.

        Args:
            samples: Areas of the samples, (S, K).
            most: Area of the whole image, the maximum.
        """
        areas = with_float64(samples).double()
        factor = torch.tensor(self.area_factor, dtype=torch.float64, device=areas.device)
        low = areas.amin(0) / factor
        return torch.stack([torch.where(low >= 1, low, 0), (areas.amax(0).clamp(min=1) * factor).clamp(max=most)])

    def check_coverage(self, image: ImageScore) -> list[CoverageCheck]:
        """Return whether the contours and the interval of area held, for each region of a scored case.

        Raises:
            ValueError: If the case was scored without contours.
        """
        if image.contours is None:
            raise ValueError(f"{image.case} was scored without contours.")
        samples, truths = zip(*(case_areas(image, k) for k in range(image.counts.shape[1])), strict=True)
        low, high = self.areas(torch.tensor(samples).T).tolist()
        return [
            CoverageCheck(
                inner_held=float(right >= self.share * inner - 1e-9),
                outer_held=float(covered >= self.share * truth - 1e-9),
                area_held=float(low[k] <= truth <= high[k]),
                between_contours=(outer - inner) / truth if truth else math.nan,
            )
            for k, ((inner, right, covered, outer), truth) in enumerate(
                zip(image.contours.T.tolist(), truths, strict=True)
            )
        ]

    @classmethod
    def fit(
        cls,
        images: Iterable[ImageScore],
        num_steps: int,
        threshold: float = 0.5,
        share: float = 0.95,
        coverage: float = 0.9,
    ) -> "Conformal":
        """Fit to cases that neither training nor calibration has seen.

        Args:
            images: Pooled sums of each case. With several raters the truth is their majority, as for Dice.
            num_steps: Number of steps of the samples.
            threshold: Threshold of the mask, which lies between the contours.
            share: Fraction of a contour's pixels, and of the truth, that has to be right.
            coverage: Fraction of cases for which a statement has to hold.

        Raises:
            ValueError: If share or coverage are out of range.
            TooFewCasesError: If there are fewer than coverage / (1 - coverage) cases.
        """
        check_share(share, coverage)
        cases, middle = list(images), round(threshold * FINE_BINS) / FINE_BINS
        inner, outer, factor = [], [], []
        for k in range(cases[0].counts.shape[1]):
            levels = np.array([contour_levels(case.reliability[2, k], share) for case in cases])
            # A higher inner and a lower outer level keep the coverage, so the mask can lie between the contours.
            inner.append(max(_conformal_quantile(levels[:, 0], coverage), middle))
            outer.append(min(-_conformal_quantile(-levels[:, 1], coverage), middle))
            needed = np.array([area_factor(*case_areas(case, k)) for case in cases])
            factor.append(max(_conformal_quantile(needed, coverage), 1.0))
        return cls(inner, outer, factor, share, coverage, len(cases), cases[0].num_samples, num_steps)


def contour_levels(counts: Tensor, share: float) -> tuple[float, float]:
    """Return the lowest level with a contour within the truth, and the highest level with the truth in the contour.

    Args:
        counts: (3, bins), of :func:`~diffmedseg.metrics.calibration.reliability_counts`, of one case.
        share: Fraction of the pixels within the contour, and of the truth, that has to be right.

    Returns:
        Multiples of the width of a bin in [0, 1]. The first is infinite if even the most certain pixels are wrong.
        Without a lesion, every outer contour holds it.
    """
    pixels, _, truth = counts.double().flip(1).cumsum(1)  # cumulated from the highest bin down
    edges = 1 - torch.arange(1, counts.shape[1] + 1) / counts.shape[1]
    right = truth >= share * pixels - 1e-9
    within = int((~right).nonzero()[0]) if (~right).any() else len(edges)  # number of bins before it fails
    inner = math.inf if within == 0 else float(edges[within - 1])
    holds = truth >= share * truth[-1] - 1e-9
    return inner, 1.0 if truth[-1] == 0 else float(edges[int(holds.nonzero()[0])])


def case_areas(image: ImageScore, region: int) -> tuple[list[float], float]:
    """Return the areas of a case's samples, and of its truth, in pixels or voxels."""
    tp, _, fn = image.counts[:, region].tolist()
    return image.pairs[0, region].diagonal()[: image.num_samples].tolist(), float(tp + fn)


def area_factor(samples: Sequence[float], truth: float) -> float:
    """Return the smallest factor of :class:`Conformal` whose interval contains the truth."""
    above = truth / max(max(samples), 1)
    # A lower end below one pixel counts as 0.
    below = min(samples) / truth if truth >= 1 else np.nextafter(min(samples), math.inf)
    return float(max(above, below))


def check_share(share: float, coverage: float) -> None:
    """Check the share and the coverage of contours.

    Raises:
        ValueError: If share or coverage are out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it has to lie in (0, 1].")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}; it has to lie between 0 and 1.")


def _conformal_quantile(scores: NDArray[np.float64], coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest score. A new score exceeds it with at most 1 - coverage."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    if rank > len(scores):
        raise TooFewCasesError(
            f"{count(len(scores), 'case')}: too few for a coverage of {coverage:g}; "
            f"{math.ceil(coverage / (1 - coverage) - 1e-9)} are needed."
        )
    return float(np.sort(scores)[rank - 1])
