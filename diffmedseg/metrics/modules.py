"""Metrics of torchmetrics: means over cases and regions, synchronised between processes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

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
        self.total += values.nansum()  # NaN: not defined for this mask
        self.count += (~values.isnan()).sum()

    def compute(self) -> Tensor:
        """Return the mean over all masks seen, NaN before the first."""
        return self.total / self.count


class _OverlapMean(_CaseMean):
    """The mean overlap of cases. A case is one image, or the pooled slices of a volume."""

    higher_is_better = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  torchmetrics' signature
        """Refuse: torchmetrics resets between batches, so a case in two batches would count twice.

        Raises:
            NotImplementedError: Always; call ``update`` and ``compute``.
        """
        raise NotImplementedError(f"{type(self).__name__} pools cases over batches: call update and compute.")

    def __init__(self) -> None:
        super().__init__()
        self._case: str | None = None
        self._counts = torch.zeros(0)
        self._pooled = torch.zeros(0)

    def update(self, prediction: Tensor, reference: Tensor, cases: Sequence[str] | None = None) -> None:
        """Add masks.

        Args:
            prediction: (B, K, H, W), bool.
            reference: (B, K, H, W), bool.
            cases: The case of each image; slices of a case follow each other, also over several calls. None if each
                image is a case.
        """
        counts = torch.stack(functional.confusion_counts(prediction, reference), 1)  # (B, 3, K)
        for b in range(len(counts)):
            if cases is not None and cases[b] == self._case:  # replace what the case's earlier slices gave
                self.total -= self._pooled.nansum()
                self.count -= (~self._pooled.isnan()).sum()
                self._counts = self._counts + counts[b]
            else:
                self._counts = counts[b]
            self._case = None if cases is None else cases[b]
            self._pooled = self._overlap(*self._counts)
            self._add(self._pooled)

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self._case = None

    @staticmethod
    @abstractmethod
    def _overlap(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor: ...


class Dice(_OverlapMean):
    """Mean Dice of cases and regions; 1 for two empty masks. Higher is better."""

    _overlap = staticmethod(functional.dice_from_counts)


class ForegroundDice(_OverlapMean):
    """Mean Dice of cases and regions in which mask or reference has foreground; 1 without such. Higher is better.

    A missed lesion has 0, and so does a false alarm. Two empty masks do not count.
    """

    def compute(self) -> Tensor:
        """Return the mean over all these masks."""
        return torch.where(self.count == 0, 1.0, self.total / self.count.clamp(min=1))

    @staticmethod
    def _overlap(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        return torch.where(tp + fp + fn == 0, torch.nan, functional.dice_from_counts(tp, fp, fn))


class IoU(_OverlapMean):
    """Mean IoU of cases and regions; 1 for two empty masks. Higher is better."""

    _overlap = staticmethod(functional.iou_from_counts)


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
        unbiased: Leave out the distance of a sample to itself, so that the value does not depend on S.
    """

    higher_is_better = False

    def __init__(self, unbiased: bool = True) -> None:
        super().__init__()
        self.unbiased = unbiased

    def update(self, samples: Tensor, raters: Tensor, rater_valid: Tensor | None = None) -> None:
        """Add samples (B, S, K, H, W) and raters (B, R, K, H, W), bool; ``rater_valid`` (B, R) marks real raters."""
        for b in range(len(samples)):
            valid = raters[b] if rater_valid is None else raters[b][rater_valid[b]]
            for k in range(samples.shape[2]):
                distance = functional.generalized_energy_distance(samples[b, :, k], valid[:, k])
                self._add(distance.unbiased if self.unbiased else distance.biased)


class ForegroundCount(Metric):
    """Counts images and images with foreground, for several kinds of masks.

    Args:
        kinds: Number of kinds, such as masks of raters and masks of a model.
    """

    is_differentiable = False
    full_state_update = False
    images: Tensor
    filled: Tensor

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.add_state("images", torch.zeros(kinds, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("filled", torch.zeros(kinds, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, kind: int, masks: Tensor) -> None:
        """Add masks (B, ..., H, W), bool, of a kind, from 0."""
        self.images[kind] += len(masks)
        self.filled[kind] += masks.flatten(1).any(1).sum()

    def compute(self) -> Tensor:
        """Return the number of images and of those with foreground, by kind: (2, kinds), int64."""
        return torch.stack([self.images, self.filled])
