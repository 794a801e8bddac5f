"""Turn a difference map into a soft mask with the decision level 0.5."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.postprocessing.otsu import otsu_level


class Decision(Configurable, ABC):
    """Computes a level for each map. Pixels above the level are foreground."""

    @abstractmethod
    def __call__(self, evidence: Tensor) -> Tensor:
        """Compute the levels.

        Args:
            evidence: (N, H, W), in [0, 1].

        Returns:
            (N,), in [0, 1].
        """


class FixedLevel(Decision):
    """The same level for every map.

    Args:
        level: The level.
    """

    def __init__(self, level: float = 0.5) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; it has to lie between 0 and 1.")
        self.level = level

    def __call__(self, evidence: Tensor) -> Tensor:
        """Compute the levels; see the base class."""
        return evidence.new_full((len(evidence),), self.level)


class MultipleOfMean(Decision):
    """A multiple of the map's mean, as in DiffEdit (Couairon et al. 2022, arXiv 2210.11427).

    Args:
        factor: Multiple of the mean. diffusers' pipeline has 1.5: it clips maps at three times the mean, and has its
            threshold at half of this.
    """

    def __init__(self, factor: float = 1.5) -> None:
        self.factor = factor

    def __call__(self, evidence: Tensor) -> Tensor:
        """Compute the levels; see the base class."""
        return (self.factor * evidence.mean((-2, -1))).clamp(0, 1)


class Otsu(Decision):
    """The level that separates two classes best (Otsu 1979), as in Hu et al. 2023 (arXiv 2306.03878)."""

    def __call__(self, evidence: Tensor) -> Tensor:
        """Compute the levels; see the base class."""
        return otsu_level(evidence)


def to_evidence(difference: Tensor, least_contrast: float, percentiles: tuple[float, float]) -> Tensor:
    """Normalise each map by percentiles, which outliers do not affect.

    Args:
        difference: (N, H, W). A higher value means that the pixel looks more diseased.
        least_contrast: A map becomes 0 everywhere if the difference of its percentiles is at most this number.
        percentiles: Percentiles that become 0 and 1.

    Returns:
        (N, H, W), in [0, 1].
    """
    low, high = percentile_range(difference, percentiles)
    contrast = (high - low)[:, None, None]
    normal = ((difference - low[:, None, None]) / contrast.clamp(min=1e-12)).clamp(0, 1)
    return torch.where(contrast <= least_contrast, 0.0, normal)  # NaN stays, to reveal a broken network


def percentile_range(difference: Tensor, percentiles: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return two percentiles of each map (N, H, W), each (N,)."""
    shares = torch.tensor(percentiles, dtype=difference.dtype).to(difference.device) / 100
    low, high = torch.quantile(difference.flatten(1), shares, dim=1)
    return low, high


def to_soft_mask(evidence: Tensor, level: Tensor) -> Tensor:
    """Map evidence (N, H, W) in [0, 1] so that ``level`` (N,) becomes 0.5. The map is linear on either side."""
    level = level[:, None, None]
    above = 0.5 + (evidence - level) / (1 - level).clamp(min=1e-6) / 2
    return torch.where(evidence <= level, evidence / level.clamp(min=1e-6) / 2, above)
