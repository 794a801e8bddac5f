"""Encoded images, as the chains that sample their masks need them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from diffmedseg.keyed_random import Generator
from diffmedseg.models.denoiser import Condition
from diffmedseg.models.low_rank_normal import LowRankNormal, NormalNoise
from diffmedseg.models.tiling import Window, blend


@dataclass(frozen=True)
class EncodedImages:
    """B images: the conditions of their windows, and the maps of the whole images that are merged from these.

    Attributes:
        parts: The windows; one for all of an image.
        size: Height and width of the images, or depth, height and width of volumes.
        conditions: The condition of each window.
        prior: (B, K, H, W), in [0, 1]: the condition network's own mask. With ``normal`` and S samples of each image it
            may be (B * S, K, H, W). None where there is none.
        normal: The distribution of such masks; None where there is none.
        chance: (B, K, H, W), in [0, 1]: how probable it is that a rater outlines anything. ``prior`` is then the mask
            of raters who do. None where the network does not tell.
    """

    parts: Sequence[Window]
    size: tuple[int, ...]
    conditions: Sequence[Condition]
    prior: Tensor | None = None
    normal: LowRankNormal | None = None
    chance: Tensor | None = None

    @staticmethod
    def merge(parts: Sequence[Window], conditions: Sequence[Condition], size: Sequence[int]) -> "EncodedImages":
        """Merge the maps of windows into those of whole images."""
        merge = partial(blend, parts, size=size)
        priors = [condition.prior.float().sigmoid() for condition in conditions if condition.prior is not None]
        normals = [condition.normal for condition in conditions if condition.normal is not None]
        chances = [
            condition.presence.sigmoid()[:, :, None, None].expand(-1, -1, *_size(part))
            for condition, part in zip(conditions, parts, strict=True)
            if condition.presence is not None
        ]
        return EncodedImages(
            parts,
            tuple(size),
            conditions,
            merge(priors) if priors else None,
            LowRankNormal.merge(normals, merge) if normals else None,
            merge(chances) if chances else None,
        )

    @property
    def probability(self) -> Tensor | None:
        """The condition network's own mask as the probability that a rater calls a pixel foreground."""
        return self.prior if self.prior is None or self.chance is None else self.prior * self.chance

    def with_samples(self, generators: Sequence[Generator]) -> "EncodedImages":
        """Put a sample of the prior, one for each of B * S generators, in its place where it has a distribution."""
        if self.normal is None:
            return self
        samples = len(generators) // len(self.normal.mean)
        rows = [generators[first : first + samples] for first in range(0, len(generators), samples)]
        return self.with_noise(NormalNoise.draw(rows, self.normal))

    def with_noise(self, noise: NormalNoise) -> "EncodedImages":
        """Put the samples of the prior that follow from noise in its place where it has a distribution."""
        if self.normal is None:
            return self
        base = self.normal.sample(noise).flatten(0, 1)
        conditions = [replace(c, prior=base[part]) for c, part in zip(self.conditions, self.parts, strict=True)]
        return replace(self, conditions=conditions, prior=base.sigmoid())


def _size(part: Window) -> tuple[int, ...]:
    """Return the sides of a window."""
    _, *sides = part
    return tuple(side.stop - side.start for side in sides)
