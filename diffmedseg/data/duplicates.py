"""Images that are the same, or nearly so."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.store import to_signed

_SIDE = 16  # of the thumbnails that are compared, in pixels
_ROWS = 2048  # compared at once


def fingerprint(image: Tensor) -> tuple[str, Tensor]:
    """Return what tells whether two images are the same: a digest, and a thumbnail for nearly the same.

    Args:
        image: (C, H, W), uint8 in [0, 255] or float in [-1, 1].

    Returns:
        The digest of its values; and (C * 256,), float32: the thumbnail's values less their mean, of length 1.
    """
    digest = blake2b(np.ascontiguousarray(image.numpy()).tobytes(), digest_size=16).hexdigest()
    small = F.interpolate(to_signed(image)[None], (_SIDE, _SIDE), mode="bilinear", antialias=True).flatten()
    centred = small - small.mean()
    return digest, centred / centred.norm().clamp(min=1e-6)


def same(a: Sequence[str], b: Sequence[str] | None = None) -> list[tuple[int, int]]:
    """Return pairs of equal digests: between two lists, or within one, each item with the first that equals it."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(a):
        places[digest].append(index)
    if b is None:
        return [(found[0], other) for found in places.values() for other in found[1:]]
    return [(first, index) for index, digest in enumerate(b) for first in places.get(digest, [])[:1]]


def nearly_same(a: Tensor, b: Tensor | None = None, least: float = 0.995) -> list[tuple[int, int]]:
    """Return pairs whose thumbnails correlate at least so much: between two sets (N, D), or within one."""
    pairs: list[tuple[int, int]] = []
    other = a if b is None else b
    for first in range(0, len(a), _ROWS):
        close = a[first : first + _ROWS] @ other.T >= least
        if b is None:
            close = close.triu(first + 1)
        pairs += [(first + int(i), int(j)) for i, j in close.nonzero()]
    return pairs
