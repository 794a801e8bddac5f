"""Rules that turn a set of masks into one; they work without a Trainer."""

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.errors import unknown
from diffmedseg.precision import with_float64

#: What STAPLE's first estimate comes from.
Start = Literal["votes", "performance"]

_BITS = 31  # votes in a number, beside which there is room for the number of a pixel


class Fusion(Configurable, ABC):
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
        exact = with_float64(samples).double()  # in float32 a tie of votes may exceed 0.5
        checked = _checked(exact, weights)
        mean = torch.einsum("bs,bskhw->bkhw", checked, exact) / checked.sum(1)[:, None, None, None]
        return mean.to(samples.dtype).to(samples.device).clamp(0, 1)


class MajorityFusion(Fusion):
    """The share of samples that call a pixel foreground, so that a threshold of 0.5 is a majority vote."""

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        return MeanFusion()((samples > 0.5).to(samples.dtype), weights)


class SquaredMeanFusion(Fusion):
    """The square of the mean of the samples: what the released code of MedSegDiff calls STAPLE.

    It is here to reproduce that code's results, and is no estimate of a probability: half of the samples give 0.25, so
    that a threshold of 0.5 asks for 71 % of them. In the released code samples lie in [-1, 1], where the square even
    turns background of -1 into foreground; here they lie in [0, 1].
    """

    def __call__(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Fuse; see the base class."""
        return MeanFusion()(samples, weights).square()


class STAPLEFusion(Fusion):
    """Simultaneous truth and performance level estimation (Warfield et al., IEEE TMI 2004, sections III and IV).

    Expectation maximisation over the hidden truth and the sensitivity and specificity of every sample, each image and
    region by itself, though all at once. As in SimpleITK's filter, the prior of foreground is the share of votes for
    it, the same everywhere. The likelihood has several maxima, and the start decides which of them is found. What the
    released code of MedSegDiff calls STAPLE is :class:`SquaredMeanFusion`.

    Args:
        max_iterations: Iterations at most; few sets need more than some hundred.
        tolerance: It has converged when no sensitivity or specificity changes by more. On the way changes can be small.
        start: What the first estimate of the truth follows from. ``votes`` takes the mean of the votes, as SimpleITK's
            filter does. ``performance`` takes a sensitivity and specificity of 0.99999 for every sample, as Warfield
            et al. propose; it may end in a lower maximum.

    Raises:
        ValueError: If there is no such start.
    """

    _FIRST = 0.99999  # sensitivity and specificity at the start
    _LEAST = 1e-12  # keeps logarithms finite
    _UNSEEN = 10  # iterations until it is looked which sets have converged, for which a GPU has to be waited for
    _AT_ONCE = 2**25  # votes that are counted together: bounds the memory of large sets

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
            Probability (B, K, H, W), sensitivity (B, K, S) and specificity (B, K, S), float64, on the CPU where the
            samples' device has no float64. Unanimous samples have 1 for both.
        """
        samples = with_float64(samples)
        shape = samples.shape[:1] + samples.shape[2:]
        sets = (samples > 0.5).transpose(1, 2).flatten(0, 1).flatten(2)  # (B K, S, N)
        times = _checked(samples, weights).repeat_interleave(samples.shape[2], 0)
        together = max(self._AT_ONCE // max(sets.shape[1:].numel(), 1), 1)
        groups = zip(torch.split(sets, together), torch.split(times, together), strict=True)
        found = [self._estimate(*group) for group in groups]
        truth, sensitivity, specificity = (torch.cat(parts) for parts in zip(*found, strict=True))
        per_sample = *shape[:2], samples.shape[1]
        return truth.reshape(shape), sensitivity.reshape(per_sample), specificity.reshape(per_sample)

    def _estimate(self, sets: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate M images and regions from votes (M, S, N), each sample counted ``times`` (M, S)."""
        patterns, pixels, which = _distinct(sets)  # pixels with the same votes share what they get
        foreground, background = ((same | (times == 0)[:, None]).all(2) for same in (patterns, ~patterns))
        truth = foreground.double()
        performance = torch.ones(2, *times.shape, dtype=torch.float64, device=sets.device)
        # Where all agree, that is the likeliest truth, which the iterations only creep up to.
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
        """Iterate on sets that stay as they are once they have converged; say which have not.

        Args:
            votes: (M, P, S), of P kinds of pixels.
            pixels: (M, P): how many there are of each kind.
            times: (M, S): how often each sample counts.
            performance: (2, M, S): sensitivity and specificity.
            iterations: How often.
        """
        prior = (pixels[:, None] @ votes @ times[..., None])[:, 0] / (times.sum(1) * pixels.sum(1))[:, None]
        prior, moving = prior.log() - (1 - prior).log(), torch.ones_like(prior, dtype=torch.bool)
        truth = torch.zeros_like(pixels)
        for _ in range(iterations):
            sensitivity, specificity = performance
            yes = times * self._log_ratio(sensitivity, 1 - specificity)  # what a vote for foreground adds
            no = times * self._log_ratio(1 - sensitivity, specificity)
            likely = (prior + no.sum(1, keepdim=True) + (votes @ (yes - no)[..., None])[..., 0]).sigmoid()
            updated = self._performance(likely, votes, pixels, performance)
            change = (updated - performance).abs().amax((0, 2))[:, None]
            truth, performance = torch.where(moving, likely, truth), updated.where(moving, performance)
            moving = moving & (change > self.tolerance)
        return truth, performance, moving[:, 0]

    def _performance(self, truth: Tensor, votes: Tensor, pixels: Tensor, before: Tensor) -> Tensor:
        """Estimate sensitivity and specificity (2, M, S) from the truth (M, P); of no pixels they stay as before."""
        parts = torch.stack([truth, 1 - truth], 1) * pixels[:, None]  # inside and outside, (M, 2, P)
        size = parts.sum(2, keepdim=True)
        inside, outside = (parts @ votes / size.clamp(self._LEAST)).unbind(1)  # share that each marks, (M, S)
        return torch.stack([inside, 1 - outside]).where((size > self._LEAST).transpose(0, 1), before)

    def _log_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return a.clamp(self._LEAST).log() - b.clamp(self._LEAST).log()


def _distinct(sets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the different votes that the pixels of each set (M, S, N), bool, got.

    Returns:
        Votes (M, P, S), bool; how many pixels got them (M, P), float64, 0 where a set has fewer than P kinds; and the
        kind of each pixel (M, N).
    """
    m, s, n = sets.shape
    kind = torch.arange(m, device=sets.device).repeat_interleave(n)  # sets come first in the order of kinds
    for some in torch.split(sets, _BITS, 1):
        powers = 2.0 ** torch.arange(some.shape[1], dtype=torch.float64, device=sets.device)
        number = (powers @ some.double()).long().flatten()
        _, kind, count = torch.unique((kind << _BITS) + number, return_inverse=True, return_counts=True)
    one = torch.empty_like(count).scatter_(0, kind, torch.arange(m * n, device=sets.device))  # a pixel of each kind
    owner = one // n
    kinds = owner.bincount(minlength=m)
    place = torch.arange(len(one), device=sets.device) - (kinds.cumsum(0) - kinds)[owner]
    votes = sets.new_zeros(m, int(kinds.max()), s)
    pixels = torch.zeros(votes.shape[:2], dtype=torch.float64, device=sets.device)
    votes[owner, place], pixels[owner, place] = sets[owner, :, one % n], count.double()
    return votes, pixels, place[kind].reshape(m, n)


def _checked(samples: Tensor, weights: Tensor | None) -> Tensor:
    """Return weights (B, S), float64; of none, ones."""
    shape = samples.shape[:2]
    if weights is None:
        return torch.ones(shape, dtype=torch.float64, device=samples.device)
    fits = tuple(weights.shape) in (tuple(shape), (shape[1],))
    values_known = not torch.compiler.is_exporting()  # a graph is made of shapes alone
    if not fits or (values_known and ((weights < 0).any() or not (weights.sum(-1) > 0).all())):
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} are negative, all 0, or do not fit {shape[1]} samples of "
            f"{shape[0]} images; expected ({shape[1]},) or ({shape[0]}, {shape[1]})."
        )
    return weights.to(samples.device).to(torch.float64).expand(shape)  # in this order: MPS has no float64
