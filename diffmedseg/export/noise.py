"""Keyed noise in NumPy, equal to PyTorch's: the same key gives the same noise.

PyTorch's CPU generator is a Mersenne twister of 32-bit numbers (MT19937, Matsumoto & Nishimura 1998). The lower 32 bits
of the seed are its seed. A uniform number has the lower 24 bits of a 32-bit number. The Box-Muller transform gives
normal numbers: in groups of 16 in float32 if at least 16 are drawn, and else one by one in float64.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from diffmedseg.noise_input import NoiseInput

_GROUP = 16
_HALF = _GROUP // 2


class KeyedNoise:
    """The stream of :func:`~diffmedseg.diffusion.keyed_generator`.

    Args:
        key: Values with an unambiguous ``str``, such as integers and names.
    """

    def __init__(self, *key: object) -> None:
        digest = blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
        self._twister = np.random.MT19937()
        self._twister._legacy_seeding(int.from_bytes(digest[:4], "little"))
        self._kept: float | None = None

    def draw(self, part: NoiseInput) -> NDArray[np.float32]:
        """Draw a part of a sample's noise."""
        number = math.prod(part.shape)
        if part.kind == "uniform":
            values = self._uniform(number)
        else:
            values = self._normal(number) if number >= _GROUP else self._few_normal(number)
        return values.reshape(part.shape)

    def _raw(self, number: int) -> NDArray[np.uint64]:
        raw: NDArray[np.uint64] = self._twister.random_raw(number)
        return raw

    def _uniform(self, number: int) -> NDArray[np.float32]:
        return (self._raw(number) & np.uint64(2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)

    def _normal(self, number: int) -> NDArray[np.float32]:
        """Draw at least 16 normal numbers. If their number is no multiple of 16, the last 16 are drawn again."""
        values = self._uniform(number)
        whole = number // _GROUP * _GROUP
        values[:whole] = _box_muller(values[:whole])
        if whole < number:
            values[-_GROUP:] = _box_muller(self._uniform(_GROUP))
        return values

    def _few_normal(self, number: int) -> NDArray[np.float32]:
        """Draw fewer than 16 normal numbers. They come in pairs; an unused second number is kept for the next call."""
        values = []
        for _ in range(number):
            if self._kept is not None:
                values.append(self._kept)
                self._kept = None
                continue
            angle, radius = 2 * math.pi * self._precise(), math.sqrt(-2 * math.log1p(-self._precise()))
            values.append(radius * math.cos(angle))
            self._kept = radius * math.sin(angle)
        return np.array(values, np.float32)

    def _precise(self) -> float:
        """Draw a uniform number with 53 bits."""
        high, low = map(int, self._raw(2))
        return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53


def _box_muller(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn groups of 16 uniform numbers into normal numbers. The first half gives radii, the second half angles."""
    first, second = uniform.reshape(-1, 2, _HALF).swapaxes(0, 1)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - first))
    angle = np.float32(2 * math.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)


def draw_noise(
    inputs: Sequence[NoiseInput], seed: int, keys: Sequence[str], samples: range
) -> dict[str, NDArray[np.float32]]:
    """Draw the noise of samples of images. Return it by name, each (B, S, *shape)."""
    parts: dict[str, list[NDArray[np.float32]]] = {part.name: [] for part in inputs}
    for key in keys:
        for sample in samples:
            stream = KeyedNoise(seed, key, sample)
            for part in inputs:
                parts[part.name].append(stream.draw(part))
    return {part.name: np.stack(parts[part.name]).reshape(len(keys), len(samples), *part.shape) for part in inputs}
