"""torchmetrics shells: means over cases and regions, synchronised between processes."""

from abc import ABC

import torch
from torch import Tensor
from torchmetrics import Metric

from diffmedseg.metrics import functional


class _CaseMean(Metric, ABC):
    """The mean of one value per mask."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        self.total += values.sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """Return the mean over all masks seen, NaN before the first."""
        return self.total / self.count


class Dice(_CaseMean):
    """Mean Dice per mask; two empty masks count 1. Higher is better."""

    higher_is_better = True

    def update(self, prediction: Tensor, reference: Tensor) -> None:
        """Add masks (B, K, H, W), bool."""
        self._add(functional.dice(prediction, reference))


class IoU(_CaseMean):
    """Mean IoU per mask; two empty masks count 1. Higher is better."""

    higher_is_better = True

    def update(self, prediction: Tensor, reference: Tensor) -> None:
        """Add masks (B, K, H, W), bool."""
        self._add(functional.iou(prediction, reference))


class SampleDiversity(_CaseMean):
    """Mean distance 1 - IoU between two different samples of an image. Neither direction is better."""

    higher_is_better = None

    def update(self, samples: Tensor) -> None:
        """Add samples (B, S, K, H, W), bool, S at least 2."""
        for image in samples.transpose(1, 2).flatten(0, 1):  # (S, H, W) of each image and region
            self._add(functional.diversity(image))


class GeneralizedEnergyDistance(_CaseMean):
    """Mean energy distance between samples and raters. Lower is better.

    Args:
        unbiased: Leave a sample's distance to itself out, so that the value does not depend on S.
    """

    higher_is_better = False

    def __init__(self, unbiased: bool = True) -> None:
        super().__init__()
        self.unbiased = unbiased

    def update(self, samples: Tensor, raters: Tensor, rater_valid: Tensor | None = None) -> None:
        """Add samples (B, S, K, H, W) and raters (B, R, K, H, W), bool; ``rater_valid`` (B, R) tells which are real."""
        for b in range(len(samples)):
            valid = raters[b] if rater_valid is None else raters[b][rater_valid[b]]
            for k in range(samples.shape[2]):
                distance = functional.generalized_energy_distance(samples[b, :, k], valid[:, k])
                self._add(distance.unbiased if self.unbiased else distance.biased)
