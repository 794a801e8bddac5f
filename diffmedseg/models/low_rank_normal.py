"""A low-rank normal distribution over the logits of masks, and the likelihood of a mask under it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import register_dataclass

from diffmedseg.keyed_random import Generator, keyed_generator, keyed_normal
from diffmedseg.noise_input import NoiseInput

#: Samples that estimate the likelihood in training, as in the paper and in the released configurations.
MC_SAMPLES = 20
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class LowRankNormal:
    """A normal distribution over the logits of all regions and pixels of a mask (Monteiro et al. 2020).

    Its covariance is ``factors @ factors.T + diag(deviation ** 2)``. All maps are float32.

    Attributes:
        mean: (B, K, H, W).
        factors: (B, rank, K, H, W): directions in which all logits change together.
        deviation: (B, K, H, W), positive: standard deviation of the independent noise of each pixel.
    """

    mean: Tensor
    factors: Tensor
    deviation: Tensor

    def sample(self, noise: "NormalNoise") -> Tensor:
        """Return the logits, (B, S, K, H, W), float32, that standard normal noise gives.

        Sampling inverts and factorises no matrix, so it works for every covariance.
        """
        with torch.autocast(self.mean.device.type, enabled=False):
            together = (noise.latents @ self.factors.flatten(2)).reshape(noise.pixels.shape)
            return self.mean[:, None] + together + self.deviation[:, None] * noise.pixels

    @staticmethod
    def merge(parts: "Sequence[LowRankNormal]", merge_maps: Callable[[list[Tensor]], Tensor]) -> "LowRankNormal":
        """Merge the maps of windows into maps of the whole image.

        Logits are linear in the maps. So if all windows share the noise, the logits of the merged maps are the merged
        logits of the windows.
        """
        return LowRankNormal(*(merge_maps([getattr(part, f.name) for part in parts]) for f in fields(LowRankNormal)))


register_dataclass(LowRankNormal)  # torch.export takes and returns conditions, which contain it


@dataclass(frozen=True)
class NormalNoise:
    """The standard normal noise of S samples of each of B images.

    Attributes:
        latents: (B, S, rank), float32: one number for each factor.
        pixels: (B, S, K, H, W), float32.
    """

    latents: Tensor
    pixels: Tensor

    @staticmethod
    def draw(generators: Sequence[Sequence[Generator]], normal: LowRankNormal) -> "NormalNoise":
        """Draw noise from B lists of S generators. Each generator draws one sample's latents, then its pixels."""
        flat, device = [g for row in generators for g in row], normal.mean.device
        latents = keyed_normal(normal.factors.shape[1:2], flat, device)
        pixels = keyed_normal(normal.mean.shape[1:], flat, device)
        size = (len(generators), len(generators[0]))
        return NormalNoise(latents.reshape(*size, -1), pixels.reshape(*size, *pixels.shape[1:]))

    def with_opposites(self) -> "NormalNoise":
        """Add the negative of each sample's noise. The noise of each such antithetic pair has the mean zero."""
        return NormalNoise(torch.cat([self.latents, -self.latents], 1), torch.cat([self.pixels, -self.pixels], 1))


def normal_inputs(normal: LowRankNormal, size: tuple[int, int]) -> tuple[NoiseInput, ...]:
    """Return the parts of the :class:`NormalNoise` of one sample, for images of a size, in the order of drawing."""
    rank, regions = normal.factors.shape[1:3]
    return NoiseInput("latents", "normal", (rank,)), NoiseInput("pixels", "normal", (regions, *size))


def training_samples(normal: LowRankNormal, seed: int, draws: Sequence[int], number: int) -> Tensor:
    """Draw samples in antithetic pairs, to estimate the likelihood of masks in training.

    Args:
        normal: The distributions of B images.
        seed: Seed of the noise.
        draws: B keys of the noise.
        number: S, an even number.

    Returns:
        Logits, (B, S, K, H, W).
    """
    generators = [[keyed_generator(seed, "train", draw, "pair", pair) for pair in range(number // 2)] for draw in draws]
    return normal.sample(NormalNoise.draw(generators, normal).with_opposites())


def log_likelihoods(logits: Tensor, mask: Tensor, weight: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
    """Return the log-likelihood of masks under the logits of samples.

    Args:
        logits: (B, S, K, H, W).
        mask: (B, K, H, W), in {0, 1}.
        weight: (B, K), at least 0: weight of each mask; None for equal weights.
        pixels: (B, 1, H, W), at least 0: weight of each pixel; None for equal weights.

    Returns:
        (B, S), in nats.
    """
    with torch.autocast(logits.device.type, enabled=False):
        mask = mask.float()[:, None].expand_as(logits)
        losses = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
        regions = (losses if pixels is None else losses * pixels[:, None]).sum((3, 4))
        return -(regions if weight is None else regions * weight[:, None]).sum(2)


def monte_carlo_loss(likelihoods: Tensor, pixels: int) -> Tensor:
    """Return the negative Monte-Carlo log-likelihood of masks (Monteiro et al. 2020), a scalar.

    The likelihood of a whole mask is averaged over samples, and then the logarithm is taken. This likelihood is a
    product over pixels, which would underflow. So the logarithm of the mean is a logsumexp of log-likelihoods.

    Args:
        likelihoods: (B, S), float32, from :func:`log_likelihoods`.
        pixels: Number of pixels of a mask, in all regions.

    Returns:
        The mean over images, in nats per pixel and region. The paper has the sum over pixels. It depends on the image
        size, and every gradient would be clipped.
    """
    return -(torch.logsumexp(likelihoods, 1) - math.log(likelihoods.shape[1])).mean() / pixels


def choose_likely(logits: Tensor, likelihoods: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw samples from the posterior given a rater's mask (sampling-importance-resampling).

    Args:
        logits: (B, S, K, H, W), samples of the prior.
        likelihoods: (B, S), from :func:`log_likelihoods`.
        generators: B * L, image-major; each chooses one sample.

    Returns:
        (B * L, K, H, W): each is one of the S samples of its image, chosen in proportion to its likelihood.
    """
    per_image, device = len(generators) // len(logits), logits.device
    uniform = torch.stack([torch.rand(logits.shape[1], generator=g) for g in generators]).to(device)
    gumbel = -(-uniform.clamp(min=_TINY).log()).log()  # the argmax below draws in proportion
    indices = (likelihoods.repeat_interleave(per_image, 0) + gumbel).argmax(1)
    return logits[torch.arange(len(generators), device=device) // per_image, indices]
