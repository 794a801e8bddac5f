"""Maps of probability to probability, fitted on validation cases, so that 0.7 is right 70 % of the time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.configurable import Configurable

_SLOPE = 1e-3
_LEAST = 1e-6  # probabilities are clipped to [_LEAST, 1 - _LEAST], so that logits are finite


class Calibration(Configurable, ABC):
    """An increasing map of probability to probability."""

    @abstractmethod
    def __call__(self, probability: Tensor) -> Tensor:
        """Map probabilities of any shape, in [0, 1]."""


class TemperatureScaling(Calibration):
    """Divides the logit by a temperature (Guo et al. 2017, arXiv 1706.04599, section 4.2) and shifts it.

    Args:
        temperature: Divisor of the logit; above 1, probabilities become less extreme.
        bias: Number that is added to the logit; with 0, a probability of 0.5 does not change.
    """

    def __init__(self, temperature: float = 1.0, bias: float = 0.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it has to be above 0.")
        self.temperature, self.bias = temperature, bias

    def __call__(self, probability: Tensor) -> Tensor:
        """Map; see the base class."""
        p = probability.clamp(_LEAST, 1 - _LEAST)
        return ((p.log() - (1 - p).log()) / self.temperature + self.bias).sigmoid()

    @classmethod
    def fit(cls, counts: Tensor, with_bias: bool = False) -> "TemperatureScaling":
        """Minimise the negative log-likelihood.

        Args:
            counts: (3, bins), of :func:`~diffmedseg.metrics.calibration.reliability_counts`, of all cases.
            with_bias: Fit a bias, too. The mask at a given threshold then changes.
        """
        from scipy.optimize import minimize

        pixels, p, y = _points(counts)
        p = p.clip(_LEAST, 1 - _LEAST)
        logit = np.log(p / (1 - p))

        def loss(parameters: NDArray[np.float64]) -> float:
            z = logit * math.exp(-parameters[0]) + (parameters[1] if with_bias else 0)
            return float((pixels * (np.logaddexp(0, z) - y * z)).sum() / pixels.sum())

        best = minimize(loss, np.zeros(1 + with_bias), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-10})
        return cls(float(math.exp(best.x[0])), float(best.x[1]) if with_bias else 0.0)


class IsotonicCalibration(Calibration):
    """The increasing function of probability that fits frequencies best, linear between the means of its steps.

    Args:
        probability: Points, increasing, in [0, 1].
        frequency: Values at the points, increasing, in [0, 1].
    """

    def __init__(self, probability: Sequence[float], frequency: Sequence[float]) -> None:
        if len(probability) != len(frequency) or len(probability) < 2:
            raise ValueError(
                f"There are {len(probability)} probabilities and {len(frequency)} frequencies; expected equal numbers, "
                "2 or more."
            )
        if (np.diff(probability) <= 0).any() or (np.diff(frequency) < 0).any():
            raise ValueError("Probabilities and frequencies have to increase.")
        self.probability, self.frequency = list(probability), list(frequency)

    def __call__(self, probability: Tensor) -> Tensor:
        """Map; see the base class."""
        mapped = np.interp(probability.detach().float().cpu().numpy(), self.probability, self.frequency)
        return torch.from_numpy(mapped).to(probability)

    @classmethod
    def fit(cls, counts: Tensor) -> "IsotonicCalibration":
        """Fit by pooling adjacent violators (Zadrozny & Elkan, KDD 2002).

        Args:
            counts: (3, bins), of :func:`~diffmedseg.metrics.calibration.reliability_counts`, of all cases.
        """
        from scipy.optimize import isotonic_regression

        pixels, p, y = _points(counts)
        blocks = isotonic_regression(y, weights=pixels).blocks
        steps = [slice(first, last) for first, last in pairwise(blocks)]
        middles, levels = (
            [float(np.average(values[step], weights=pixels[step])) for step in steps] for values in (p, y)
        )
        if middles[0] > 0:
            middles, levels = [0.0, *middles], [0.0, *levels]
        if middles[-1] < 1:
            middles, levels = [*middles, 1.0], [*levels, 1.0]
        # A small share of the identity makes the function strictly increasing.
        return cls(middles, [(1 - _SLOPE) * level + _SLOPE * p for p, level in zip(middles, levels, strict=True)])


def _points(counts: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return number of pixels, mean probability and frequency of the non-empty bins."""
    pixels, p, y = counts.double().numpy()[:, (counts[0] > 0).numpy()]
    if not len(pixels):
        raise ValueError("There is no pixel to fit to.")
    return pixels, p / pixels, y / pixels
