"""From a difference map to a soft mask whose decision level is 0.5."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.postprocessing.otsu import otsu_level


class Decision(Configurable, ABC):
    """Finds the level of each map above which it is foreground."""

    @abstractmethod
    def __call__(self, evidence: Tensor) -> Tensor:
        """Find the levels.

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
        """Find the levels; see the base class."""
        return evidence.new_full((len(evidence),), self.level)


class MultipleOfMean(Decision):
    """A multiple of the map's mean, as in DiffEdit (Couairon et al. 2022, arXiv 2210.11427).

    Args:
        factor: 1.5 in diffusers' pipeline: maps are capped at three times the mean, and cut at half of that.
    """

    def __init__(self, factor: float = 1.5) -> None:
        self.factor = factor

    def __call__(self, evidence: Tensor) -> Tensor:
        """Find the levels; see the base class."""
        return (self.factor * evidence.mean((-2, -1))).clamp(0, 1)


class Otsu(Decision):
    """The level between two classes that differ most (Otsu 1979), as in Hu et al. 2023 (arXiv 2306.03878)."""

    def __call__(self, evidence: Tensor) -> Tensor:
        """Find the levels; see the base class."""
        return otsu_level(evidence)


def to_evidence(difference: Tensor, least_contrast: float, percentiles: tuple[float, float]) -> Tensor:
    """Normalise maps one by one, robustly.

    Args:
        difference: (N, H, W), higher where the image looks more diseased.
        least_contrast: A map whose percentiles lie no further apart shows nothing, and becomes 0 everywhere.
        percentiles: What becomes 0 and 1.

    Returns:
        (N, H, W), in [0, 1].
    """
    low, high = percentile_range(difference, percentiles)
    contrast = (high - low)[:, None, None]
    normal = ((difference - low[:, None, None]) / contrast.clamp(min=1e-12)).clamp(0, 1)
    return torch.where(contrast <= least_contrast, 0.0, normal)  # NaN stays, so that a broken network is seen


def percentile_range(difference: Tensor, percentiles: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return two percentiles of each map (N, H, W), each (N,)."""
    shares = torch.tensor(percentiles, dtype=difference.dtype).to(difference.device) / 100
    low, high = torch.quantile(difference.flatten(1), shares, dim=1)
    return low, high


def to_soft_mask(evidence: Tensor, level: Tensor) -> Tensor:
    """Map evidence (N, H, W) in [0, 1] so that ``level`` (N,) becomes 0.5, linearly on either side."""
    level = level[:, None, None]
    above = 0.5 + (evidence - level) / (1 - level).clamp(min=1e-6) / 2
    return torch.where(evidence <= level, evidence / level.clamp(min=1e-6) / 2, above)
