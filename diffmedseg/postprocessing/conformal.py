"""Contours and areas that hold the truth as often as they say, fitted on validation cases.

Fitted from the sums that scoring a case leaves (:class:`~diffmedseg.metrics.images.ImageScore`).
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
from diffmedseg.metrics.scores import Held
from diffmedseg.precision import with_float64
from diffmedseg.wording import count


class Conformal(Configurable):
    """An inner and an outer contour of each region, and an interval for its area, that hold as often as they say.

    Split conformal prediction (Vovk et al. 2005; Angelopoulos & Bates 2021, arXiv 2107.07511) over cases: for a new
    case that is drawn like those fitted on, each statement holds with probability ``coverage`` at least. Areas, or
    volumes: conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222) on logarithms, from the samples'
    least area divided by a factor to their largest times it. What is less than a pixel counts as nothing.

    Args:
        inner: By region: where the probability, before calibration, is at least this, ``share`` of the pixels or more
            belong to the lesion; infinite where only an empty contour keeps that.
        outer: By region: where the probability is at least this, ``share`` of the lesion or more is found.
        area_factor: By region, at least 1: samples that are spread too wide stay so.
        share: In (0, 1].
        coverage: In (0, 1).
        cases: Cases that it was fitted on.
        num_samples: S that it was fitted with.
        num_steps: Steps that it was fitted with.
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
            raise ValueError(f"Of how many regions? {len(self.inner)}, {len(self.outer)} or {len(self.area_factor)}.")
        self.share, self.coverage, self.cases = share, coverage, cases
        self.num_samples, self.num_steps = num_samples, num_steps

    def contours(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inner and the outer contour, filled, of a probability (..., K, H, W) that is not calibrated.

        Compared are the bins in which pixels were counted, whose edges a float32 may miss.

        Returns:
            Two of its shape, bool.
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
            most: That of the whole image, which nothing exceeds.
        """
        areas = with_float64(samples).double()
        factor = torch.tensor(self.area_factor, dtype=torch.float64, device=areas.device)
        low = areas.amin(0) / factor
        return torch.stack([torch.where(low >= 1, low, 0), (areas.amax(0).clamp(min=1) * factor).clamp(max=most)])

    def held(self, image: ImageScore) -> list[Held]:
        """Say of each region of a case that was scored with its contours what held.

        Raises:
            ValueError: If it was scored without.
        """
        if image.contours is None:
            raise ValueError(f"{image.case} was scored without contours.")
        samples, truths = zip(*(case_areas(image, k) for k in range(image.counts.shape[1])), strict=True)
        low, high = self.areas(torch.tensor(samples).T).tolist()
        return [
            Held(
                inner_held=float(right >= self.share * inner - 1e-9),
                outer_held=float(found >= self.share * truth - 1e-9),
                area_held=float(low[k] <= truth <= high[k]),
                between_contours=(outer - inner) / truth if truth else math.nan,
            )
            for k, ((inner, right, found, outer), truth) in enumerate(
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
        """Fit to cases that the model was not trained on, and whose probability was not fitted to them.

        Args:
            images: Pooled sums of each case. With several raters the truth is their majority, as for Dice.
            num_steps: Steps that the samples took.
            threshold: Of the mask, which lies between the contours.
            share: What share of a contour's pixels, and of the truth, has to be right.
            coverage: How often.

        Raises:
            ValueError: If share or coverage are out of range.
            TooFewCasesError: If there are too few for the coverage: n has to be at least coverage / (1 - coverage).
        """
        check_share(share, coverage)
        cases, middle = list(images), round(threshold * FINE_BINS) / FINE_BINS
        inner, outer, factor = [], [], []
        for k in range(cases[0].counts.shape[1]):
            levels = np.array([contour_levels(case.reliability[2, k], share) for case in cases])
            # A higher inner and a lower outer level keep what they say: the mask fits between the contours.
            inner.append(max(_conformal_quantile(levels[:, 0], coverage), middle))
            outer.append(min(-_conformal_quantile(-levels[:, 1], coverage), middle))
            needed = np.array([area_factor(*case_areas(case, k)) for case in cases])
            factor.append(max(_conformal_quantile(needed, coverage), 1.0))
        return cls(inner, outer, factor, share, coverage, len(cases), cases[0].num_samples, num_steps)


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


def case_areas(image: ImageScore, region: int) -> tuple[list[float], float]:
    """Return the areas of a case's samples, and of its truth, in pixels or voxels."""
    tp, _, fn = image.counts[:, region].tolist()
    return image.pairs[0, region].diagonal()[: image.num_samples].tolist(), float(tp + fn)


def area_factor(samples: Sequence[float], truth: float) -> float:
    """Return the least factor of :class:`Conformal` whose interval holds the truth."""
    above = truth / max(max(samples), 1)
    # Below one pixel the interval reaches down to nothing.
    below = min(samples) / truth if truth >= 1 else np.nextafter(min(samples), math.inf)
    return float(max(above, below))


def check_share(share: float, coverage: float) -> None:
    """Refuse what no contour can keep.

    Raises:
        ValueError: If share or coverage are out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it has to lie in (0, 1].")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}; it has to lie between 0 and 1.")


def _conformal_quantile(scores: NDArray[np.float64], coverage: float) -> float:
    """Return the smallest score that a new one stays below with the coverage: the ceil((n + 1) coverage)-th."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    if rank > len(scores):
        raise TooFewCasesError(
            f"{count(len(scores), 'case')} cannot give a coverage of {coverage:g}: "
            f"{math.ceil(coverage / (1 - coverage) - 1e-9)} are needed."
        )
    return float(np.sort(scores)[rank - 1])
