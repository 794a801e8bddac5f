"""Find images that are the same, or nearly the same."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.store import to_signed

_SIDE = 16  # pixels: side of the compared thumbnails
_ROWS = 2048  # rows that are compared at once


def fingerprint(image: Tensor) -> tuple[str, Tensor]:
    """Return a digest, which equal images share, and a thumbnail, which nearly equal images nearly share.

    Args:
        image: (C, H, W), uint8 in [0, 255] or float in [-1, 1].

    Returns:
        The digest of the values; and the thumbnail, (C * 256,), float32, with mean 0 and length 1.
    """
    digest = blake2b(np.ascontiguousarray(image.numpy()).tobytes(), digest_size=16).hexdigest()
    small = F.interpolate(to_signed(image)[None], (_SIDE, _SIDE), mode="bilinear", antialias=True).flatten()
    centred = small - small.mean()
    return digest, centred / centred.norm().clamp(min=1e-6)


def same(a: Sequence[str], b: Sequence[str] | None = None) -> list[tuple[int, int]]:
    """Return index pairs of equal digests, in two lists or within one. Each item is paired with its first equal."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(a):
        indices[digest].append(index)
    if b is None:
        return [(equal[0], other) for equal in indices.values() for other in equal[1:]]
    return [(first, index) for index, digest in enumerate(b) for first in indices.get(digest, [])[:1]]


def nearly_same(a: Tensor, b: Tensor | None = None, least: float = 0.995) -> list[tuple[int, int]]:
    """Return index pairs of thumbnails whose correlation is at least ``least``, in two sets (N, D) or within one."""
    pairs: list[tuple[int, int]] = []
    partners = a if b is None else b
    for first in range(0, len(a), _ROWS):
        close = a[first : first + _ROWS] @ partners.T >= least
        if b is None:
            close = close.triu(first + 1)
        pairs += [(first + int(i), int(j)) for i, j in close.nonzero()]
    return pairs
