"""Encoded images, for the chains that sample their masks."""

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
    """The conditions of the windows of B images, and maps of the whole images.

    Attributes:
        parts: The windows; a single window for whole images.
        size: Height and width of the images, or depth, height and width of volumes.
        conditions: The condition of each window.
        prior: (B, K, H, W), in [0, 1]: the condition network's own mask, or (B * S, K, H, W) for samples of this mask.
            None if the network has no such mask.
        normal: Distribution of the condition network's own masks; None if the network predicts no distribution.
        chance: (B, K, H, W), in [0, 1]: probability that a rater outlines the region. ``prior`` is then the mask of
            raters who outline it. None if the network does not predict presence.
    """

    parts: Sequence[Window]
    size: tuple[int, ...]
    conditions: Sequence[Condition]
    prior: Tensor | None = None
    normal: LowRankNormal | None = None
    chance: Tensor | None = None

    @staticmethod
    def merge(parts: Sequence[Window], conditions: Sequence[Condition], size: Sequence[int]) -> "EncodedImages":
        """Merge the maps of windows into maps of whole images."""
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
        """Probability that a rater's mask contains a pixel, predicted by the condition network alone."""
        return self.prior if self.prior is None or self.chance is None else self.prior * self.chance

    def with_samples(self, generators: Sequence[Generator]) -> "EncodedImages":
        """Replace a prior that has a distribution by samples of it: one for each of B * S generators."""
        if self.normal is None:
            return self
        samples = len(generators) // len(self.normal.mean)
        rows = [generators[first : first + samples] for first in range(0, len(generators), samples)]
        return self.with_noise(NormalNoise.draw(rows, self.normal))

    def with_noise(self, noise: NormalNoise) -> "EncodedImages":
        """Replace a prior that has a distribution by samples of it, for given noise."""
        if self.normal is None:
            return self
        logits = self.normal.sample(noise).flatten(0, 1)
        conditions = [replace(c, prior=logits[part]) for c, part in zip(self.conditions, self.parts, strict=True)]
        return replace(self, conditions=conditions, prior=logits.sigmoid())


def _size(part: Window) -> tuple[int, ...]:
    """Return the sides of a window."""
    _, *sides = part
    return tuple(side.stop - side.start for side in sides)
