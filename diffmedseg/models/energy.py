"""The generalised energy distance (GED) between samples and raters as a training loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffmedseg.keyed_random import keyed_generator

#: Pixels that count as common to any two masks, so that the distance of an empty mask and faint pixels has a gradient.
_COMMON = 1.0


def energy_generators(seed: int, draws: Sequence[int], samples: int) -> list[list[torch.Generator]]:
    """Return the generators of S independent samples of each training image. The image's draw is their key."""
    return [[keyed_generator(seed, "train", draw, "energy", s) for s in range(samples)] for draw in draws]


def soft_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - soft IoU of each mask of one set and each mask of another set.

    The intersection is the sum of the smaller probability of each pixel, and the union the sum of the larger. Each
    gets one more pixel, which all masks have in common. So equal masks have distance 0, even if they are soft. This IoU
    is a positive definite kernel (the min-max kernel). So the expected energy distance is smallest if the samples have
    the raters' distribution.

    Args:
        a: (B, N, K, H, W) or (B, N, K, D, H, W), in [0, 1].
        b: The same shape, with M instead of N.

    Returns:
        (B, N, M, K), in [0, 1].
    """
    space = tuple(range(3 - a.ndim, 0))
    common = torch.minimum(a[:, :, None], b[:, None]).sum(space)
    union = a.sum(space)[:, :, None] + b.sum(space)[:, None] - common
    return 1 - (common + _COMMON) / (union + _COMMON)


def energy_distance(samples: Tensor, raters: Tensor, valid: Tensor, presence: Tensor | None = None) -> Tensor:
    """Return the unbiased GED with the distance of :func:`soft_distances`, as a mean over images and regions.

    It is 2 E[d(s, y)] - E[d(s, s')] - E[d(y, y')], where s and s' are two different samples, and the raters y are the
    whole population. With few samples the values are noisy, but their mean does not depend on the number of samples. So
    the minimum is at the raters' distribution for any number of samples.

    Args:
        samples: (B, S, K, H, W), in [0, 1], independent of each other; S is at least 2.
        raters: (B, R, K, H, W), in {0, 1}.
        valid: (B, R), bool: whether the image has the rater.
        presence: (B, K), in [0, 1]: the probability that a sample is not empty. The loss has the exact expectation over
            presence, so ``presence`` has a gradient. ``samples`` are then the shapes of samples that are not empty.
            None if ``samples`` are final.

    Returns:
        A scalar, float32 under any autocast.
    """
    with torch.autocast(samples.device.type, enabled=False):
        samples, raters = samples.float(), raters.float()
        across, between = soft_distances(samples, raters), soft_distances(samples, samples)
        if presence is not None:
            p, nothing = presence.float()[:, None, None], torch.zeros_like(raters[:, :1])
            alone = soft_distances(samples, nothing)  # (B, S, 1, K)
            across = p * across + (1 - p) * soft_distances(nothing, raters)
            between = p * p * between + p * (1 - p) * (alone + alone.transpose(1, 2))
        share = (valid / valid.sum(1, keepdim=True)).to(samples)
        sample_rater = torch.einsum("bsrk,br->bk", across, share) / samples.shape[1]
        number = samples.shape[1]
        same = between.diagonal(dim1=1, dim2=2).sum(-1)
        sample_sample = (between.sum((1, 2)) - same) / (number * (number - 1))
        rater_rater = torch.einsum("bqrk,bq,br->bk", soft_distances(raters, raters), share, share)
        return (2 * sample_rater - sample_sample - rater_rater).mean()
