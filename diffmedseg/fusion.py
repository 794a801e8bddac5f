"""Rules that turn a set of masks into one; they work without a Trainer."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Fusion(ABC):
    """Fuses the samples of an image into one probability map.

    Unanimous samples give that mask, and the order of samples changes nothing.
    """

    @abstractmethod
    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse.

        Args:
            samples: (B, S, K, H, W), soft masks in [0, 1] whose decision level is 0.5.
            weights: (S,) or (B, S), at least 0, not all 0: a sample of weight 2 counts as two. None weighs all alike.

        Returns:
            Probability (B, K, H, W), in [0, 1], of the samples' type.

        Raises:
            ValueError: If weights do not fit.
        """


class MeanFusion(Fusion):
    """The mean of the soft samples."""

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        if weights is None:
            return samples.mean(1)
        checked = _checked(samples, weights)
        total = torch.einsum("bs,bskhw->bkhw", checked, samples.double())  # in float32 a tie of votes may exceed 0.5
        return (total / checked.sum(1)[:, None, None, None]).to(samples.dtype).clamp(0, 1)


class MajorityFusion(Fusion):
    """The share of samples that call a pixel foreground, so that a threshold of 0.5 is a majority vote."""

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        return MeanFusion()((samples > 0.5).to(samples.dtype), weights)


class STAPLEFusion(Fusion):
    """Simultaneous truth and performance level estimation (Warfield et al., IEEE TMI 2004, sections III and IV).

    Expectation maximisation over the hidden truth and the sensitivity and specificity of every sample, each image and
    region by itself. The prior of foreground is the share of votes for it, everywhere alike, and sensitivities and
    specificities start near 1, as in SimpleITK's filter. What the reference code of MedSegDiff calls STAPLE is another
    thing, the square of the mean.

    Args:
        max_iterations: Iterations at most; few sets need more than some hundred.
        tolerance: It has converged when no sensitivity or specificity changes by more. On the way changes can be small.
    """

    _START = 0.99999  # of sensitivities and specificities, ITK's value
    _LEAST = 1e-12  # keeps logarithms finite

    def __init__(self, max_iterations: int = 5000, tolerance: float = 1e-12) -> None:
        self.max_iterations, self.tolerance = max_iterations, tolerance

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        return self.estimate(samples, weights)[0].to(samples.dtype)

    def estimate(self, samples: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate the truth, and each sample's performance.

        Returns:
            Probability (B, K, H, W), sensitivity (B, K, S) and specificity (B, K, S), float64. Unanimous samples have
            1 for both.
        """
        shape = samples.shape[:1] + samples.shape[2:]
        sets = (samples > 0.5).transpose(1, 2).flatten(0, 1).flatten(2)  # (B K, S, N)
        times = _checked(samples, weights).repeat_interleave(samples.shape[2], 0)
        found = [self._estimate_one(votes, own) for votes, own in zip(sets, times, strict=True)]
        truth, sensitivity, specificity = (torch.stack(parts) for parts in zip(*found, strict=True))
        per_sample = *shape[:2], samples.shape[1]
        return truth.reshape(shape), sensitivity.reshape(per_sample), specificity.reshape(per_sample)

    def _estimate_one(self, votes: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate one image and region from (S, N) votes: pixels with the same votes share what they get."""
        patterns, inverse, count = torch.unique(votes, dim=1, return_inverse=True, return_counts=True)
        counted = patterns[times > 0]
        if (counted == counted[:1]).all():  # the likeliest truth, which the iterations only creep up to
            return counted[0][inverse].double(), torch.ones_like(times), torch.ones_like(times)
        pixels, weight = count.double(), times[:, None]  # (P,), (S, 1)
        prior = (patterns * weight).sum(0) @ pixels / (times.sum() * pixels.sum())
        sensitivity = torch.full_like(times, self._START)
        specificity, truth = sensitivity.clone(), prior.expand(len(pixels))
        for _ in range(self.max_iterations):
            before = torch.stack([sensitivity, specificity])
            yes = self._log_ratio(sensitivity, 1 - specificity)[:, None]  # what a vote for foreground adds
            no = self._log_ratio(1 - sensitivity, specificity)[:, None]
            truth = (prior.log() - (1 - prior).log() + (weight * torch.where(patterns, yes, no)).sum(0)).sigmoid()
            inside, outside = truth * pixels, (1 - truth) * pixels
            if inside.sum() > self._LEAST:
                sensitivity = (patterns * inside).sum(1) / inside.sum()
            if outside.sum() > self._LEAST:
                specificity = (~patterns * outside).sum(1) / outside.sum()
            if (torch.stack([sensitivity, specificity]) - before).abs().max() <= self.tolerance:
                break
        return truth[inverse], sensitivity, specificity

    def _log_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return a.clamp(self._LEAST).log() - b.clamp(self._LEAST).log()


def _checked(samples: Tensor, weights: Tensor | None) -> Tensor:
    """Return weights (B, S), float64; of none, ones."""
    shape = samples.shape[:2]
    if weights is None:
        return torch.ones(shape, dtype=torch.float64, device=samples.device)
    fits = tuple(weights.shape) in {tuple(shape), (shape[1],)}
    if not fits or (weights < 0).any() or not (weights.sum(-1) > 0).all():
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} are negative, all 0, or do not fit {shape[1]} samples of "
            f"{shape[0]} images; expected ({shape[1]},) or ({shape[0]}, {shape[1]})."
        )
    return weights.to(samples.device, torch.float64).expand(shape)
