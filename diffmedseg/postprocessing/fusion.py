"""Rules that fuse a set of masks into one mask. They work without a Trainer."""

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.errors import unknown
from diffmedseg.precision import with_float64

#: Origin of STAPLE's first estimate.
Start = Literal["votes", "performance"]

_BITS = 31  # votes in an integer; the other bits hold the number of a pixel kind


class Fusion(Configurable, ABC):
    """Fuses the samples of an image into one probability map.

    Unanimous samples give their mask. The order of the samples has no effect.
    """

    @abstractmethod
    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse samples.

        Args:
            samples: (B, S, K, H, W), soft masks in [0, 1] with the decision level 0.5.
            weights: (S,) or (B, S), at least 0, not all 0. A sample of weight 2 counts as two samples. None for equal
                weights.

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
        exact = with_float64(samples).double()  # in float32 a tie of votes may exceed 0.5
        checked = _checked(exact, weights)
        mean = torch.einsum("bs,bskhw->bkhw", checked, exact) / checked.sum(1)[:, None, None, None]
        return mean.to(samples.dtype).to(samples.device).clamp(0, 1)


class MajorityFusion(Fusion):
    """The share of samples with foreground at a pixel, so that a threshold of 0.5 is a majority vote."""

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        return MeanFusion()((samples > 0.5).to(samples.dtype), weights)


class SquaredMeanFusion(Fusion):
    """The square of the mean of the samples. MedSegDiff's released code calls it STAPLE.

    It reproduces the results of that code, and is no estimate of a probability: half of the samples give 0.25, so a
    threshold of 0.5 needs 71 % of them. In the released code samples are in [-1, 1], where the square even turns
    background of -1 into foreground; here they are in [0, 1].
    """

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        return MeanFusion()(samples, weights).square()


class STAPLEFusion(Fusion):
    """Simultaneous truth and performance level estimation (Warfield et al., IEEE TMI 2004, sections III and IV).

    Expectation maximisation over the hidden truth and the sensitivity and specificity of every sample. Images and
    regions are independent, but computed together. As in SimpleITK's filter, the prior of foreground is the share of
    votes for foreground, the same everywhere. The likelihood has several maxima; the start decides which is found. The
    fusion that MedSegDiff's released code calls STAPLE is :class:`SquaredMeanFusion`.

    Args:
        max_iterations: Maximum number of iterations; few sets need more than some hundred.
        tolerance: Converged if no sensitivity or specificity changes by more. Changes can also be small before that.
        start: Origin of the first estimate of the truth. ``votes``: the mean of the votes, as in SimpleITK's filter.
            ``performance``: a sensitivity and specificity of 0.99999 for every sample, as Warfield et al. propose; it
            may end in a lower maximum.

    Raises:
        ValueError: If there is no such start.
    """

    _FIRST = 0.99999  # sensitivity and specificity at the start
    _LEAST = 1e-12  # keeps logarithms finite
    _UNSEEN = 10  # iterations between tests of convergence, which wait for the GPU
    _AT_ONCE = 2**25  # votes that are counted together, to limit the memory for large sets

    def __init__(self, max_iterations: int = 5000, tolerance: float = 1e-12, start: Start = "votes") -> None:
        if start not in get_args(Start):
            raise ValueError(unknown("start", start, get_args(Start)))
        self.max_iterations, self.tolerance, self.start = max_iterations, tolerance, start

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        return self.estimate(samples, weights)[0].to(samples.dtype).to(samples.device)

    def estimate(self, samples: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate the truth, and each sample's performance.

        Returns:
            Probability (B, K, H, W), sensitivity (B, K, S) and specificity (B, K, S), float64; on the CPU if the
            samples' device has no float64. Unanimous samples have a sensitivity and specificity of 1.
        """
        samples = with_float64(samples)
        shape = samples.shape[:1] + samples.shape[2:]
        sets = (samples > 0.5).transpose(1, 2).flatten(0, 1).flatten(2)  # (B K, S, N)
        times = _checked(samples, weights).repeat_interleave(samples.shape[2], 0)
        together = max(self._AT_ONCE // max(sets.shape[1:].numel(), 1), 1)
        groups = zip(torch.split(sets, together), torch.split(times, together), strict=True)
        estimates = [self._estimate(*group) for group in groups]
        truth, sensitivity, specificity = (torch.cat(parts) for parts in zip(*estimates, strict=True))
        per_sample = *shape[:2], samples.shape[1]
        return truth.reshape(shape), sensitivity.reshape(per_sample), specificity.reshape(per_sample)

    def _estimate(self, sets: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate M images and regions from votes (M, S, N) with weights ``times`` (M, S)."""
        patterns, pixels, which = _distinct(sets)  # pixels with the same votes share a result
        foreground, background = ((same | (times == 0)[:, None]).all(2) for same in (patterns, ~patterns))
        truth = foreground.double()
        performance = torch.ones(2, *times.shape, dtype=torch.float64, device=sets.device)
        # Unanimous votes are the likeliest truth; the iterations would only approach it slowly.
        running = (~(foreground | background).all(1)).nonzero()[:, 0]
        votes, counts, weights = patterns[running].double(), pixels[running], times[running]
        if self.start == "votes":
            mean = (votes @ weights[..., None])[..., 0] / weights.sum(1, keepdim=True)
            performance[:, running] = self._performance(mean, votes, counts, performance[:, running])
        else:
            performance[:, running] = self._FIRST
        for first in range(0, self.max_iterations, self._UNSEEN):
            if not len(running):
                break
            votes, iterations = patterns[running].double(), min(self._UNSEEN, self.max_iterations - first)
            truth[running], performance[:, running], moving = self._iterate(
                votes, pixels[running], times[running], performance[:, running], iterations
            )
            running = running[moving]
        return truth.gather(1, which), performance[0], performance[1]

    def _iterate(
        self, votes: Tensor, pixels: Tensor, times: Tensor, performance: Tensor, iterations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Iterate, without changing converged sets; also return which sets have not converged.

        Args:
            votes: (M, P, S), votes of P kinds of pixels.
            pixels: (M, P): number of pixels of each kind.
            times: (M, S): weight of each sample.
            performance: (2, M, S): sensitivity and specificity.
            iterations: Number of iterations.
        """
        prior = (pixels[:, None] @ votes @ times[..., None])[:, 0] / (times.sum(1) * pixels.sum(1))[:, None]
        prior, moving = prior.log() - (1 - prior).log(), torch.ones_like(prior, dtype=torch.bool)
        truth = torch.zeros_like(pixels)
        for _ in range(iterations):
            sensitivity, specificity = performance
            yes = times * self._log_ratio(sensitivity, 1 - specificity)  # log-odds of a vote for foreground
            no = times * self._log_ratio(1 - sensitivity, specificity)
            likely = (prior + no.sum(1, keepdim=True) + (votes @ (yes - no)[..., None])[..., 0]).sigmoid()
            updated = self._performance(likely, votes, pixels, performance)
            change = (updated - performance).abs().amax((0, 2))[:, None]
            truth, performance = torch.where(moving, likely, truth), updated.where(moving, performance)
            moving = moving & (change > self.tolerance)
        return truth, performance, moving[:, 0]

    def _performance(self, truth: Tensor, votes: Tensor, pixels: Tensor, before: Tensor) -> Tensor:
        """Estimate sensitivity and specificity (2, M, S) from the truth (M, P); without pixels, return ``before``."""
        parts = torch.stack([truth, 1 - truth], 1) * pixels[:, None]  # inside and outside, (M, 2, P)
        size = parts.sum(2, keepdim=True)
        inside, outside = (parts @ votes / size.clamp(self._LEAST)).unbind(1)  # share that each marks, (M, S)
        return torch.stack([inside, 1 - outside]).where((size > self._LEAST).transpose(0, 1), before)

    def _log_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return a.clamp(self._LEAST).log() - b.clamp(self._LEAST).log()


def _distinct(sets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the distinct votes of the pixels in each set (M, S, N), bool.

    Returns:
        Votes (M, P, S), bool; number of pixels with these votes (M, P), float64, 0 if a set has fewer than P kinds; and
        the kind of each pixel (M, N).
    """
    m, s, n = sets.shape
    kind = torch.arange(m, device=sets.device).repeat_interleave(n)  # sets come first in the order of kinds
    for chunk in torch.split(sets, _BITS, 1):
        powers = 2.0 ** torch.arange(chunk.shape[1], dtype=torch.float64, device=sets.device)
        number = (powers @ chunk.double()).long().flatten()
        _, kind, count = torch.unique((kind << _BITS) + number, return_inverse=True, return_counts=True)
    example = torch.empty_like(count).scatter_(0, kind, torch.arange(m * n, device=sets.device))  # a pixel of each kind
    owner = example // n  # the set of each kind
    kinds = owner.bincount(minlength=m)
    index = torch.arange(len(example), device=sets.device) - (kinds.cumsum(0) - kinds)[owner]  # within the set
    votes = sets.new_zeros(m, int(kinds.max()), s)
    pixels = torch.zeros(votes.shape[:2], dtype=torch.float64, device=sets.device)
    votes[owner, index], pixels[owner, index] = sets[owner, :, example % n], count.double()
    return votes, pixels, index[kind].reshape(m, n)


def _checked(samples: Tensor, weights: Tensor | None) -> Tensor:
    """Check weights and return them as (B, S), float64; ones for None."""
    shape = samples.shape[:2]
    if weights is None:
        return torch.ones(shape, dtype=torch.float64, device=samples.device)
    fits = tuple(weights.shape) in (tuple(shape), (shape[1],))
    values_known = not torch.compiler.is_exporting()  # an export only knows shapes
    if not fits or (values_known and ((weights < 0).any() or not (weights.sum(-1) > 0).all())):
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} are negative, all 0, or do not fit {shape[1]} samples of "
            f"{shape[0]} images; expected ({shape[1]},) or ({shape[0]}, {shape[1]})."
        )
    return weights.to(samples.device).to(torch.float64).expand(shape)  # in this order: MPS has no float64
