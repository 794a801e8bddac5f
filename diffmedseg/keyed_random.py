"""Keyed randomness: the noise of a sample depends on what it is for, never on when it is drawn.

A generator is made from a key such as ``(seed, case, sample index)``. Results therefore do not depend on batch size,
chunking, order or the number of processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def keyed_generator(*key: object) -> torch.Generator:
    """Make a CPU generator whose stream is a function of ``key`` alone.

    The generator is always on the CPU, where streams are the same on every machine. PyTorch's Mersenne twister uses
    the lower 32 bits of a seed, so two of 10,000 keys coincide with a probability of about 1 %: harmless, since a
    collision would only give two different images the same noise.

    Args:
        key: Anything with an unambiguous ``str``: integers, names.
    """
    digest = blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class BlendedGenerator:
    """Noise between that of two generators, as of a slice that lies between two others.

    Normal noise is a cos + b sin, which is standard normal, too. Its correlation with that of another place between the
    same two generators is the cosine of the difference of both angles.

    Attributes:
        first: Gives a.
        second: Gives b.
        angle: In radians, from 0 for a alone to pi / 2 for b alone.
    """

    first: torch.Generator
    second: torch.Generator
    angle: float

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise of a shape, float32, on the CPU."""
        a, b = (torch.randn(tuple(shape), generator=one) for one in (self.first, self.second))
        return a * math.cos(self.angle) + b * math.sin(self.angle)

    def uniform(self, number: int) -> Tensor:
        """Draw numbers in [0, 1]: the normal distribution function of normal noise."""
        numbers: Tensor = torch.special.ndtr(self.normal((number,)))
        return numbers


Generator = torch.Generator | BlendedGenerator


def between(key: tuple[object, ...], position: float) -> BlendedGenerator:
    """Return the noise at a place along a line on which independent noise lies at whole numbers.

    Noise one apart is correlated by 0 to 0.71, noise two apart by 0.

    Args:
        key: Key of the line, as of :func:`keyed_generator`.
        position: Place, such as that of a slice in multiples of a distance.
    """
    below = math.floor(position)
    first, second = (keyed_generator(*key, "knot", number) for number in (below, below + 1))
    return BlendedGenerator(first, second, (position - below) * math.pi / 2)


def keyed_uniform(number: int, generators: Sequence[Generator]) -> Tensor:
    """Draw numbers in [0, 1] from each generator, shape (len(generators), number), float32, on the CPU."""
    rows = [
        one.uniform(number) if isinstance(one, BlendedGenerator) else torch.rand(number, generator=one)
        for one in generators
    ]
    return torch.stack(rows)


def keyed_normal(shape: Sequence[int], generators: Sequence[Generator], device: torch.device) -> Tensor:
    """Draw standard normal noise, one row from each generator.

    Args:
        shape: Shape of a row, such as (K, H, W).
        generators: One CPU generator per row; each is advanced.
        device: Where the result is wanted; the draw happens on the CPU.

    Returns:
        Noise of shape ``(len(generators), *shape)``, float32.
    """
    rows = [
        one.normal((1, *shape)) if isinstance(one, BlendedGenerator) else torch.randn(1, *shape, generator=one)
        for one in generators
    ]
    return torch.cat(rows).to(device)


def keyed_integers(high: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one integer in [0, high) from each generator, shape (len(generators),), int64, on the CPU."""
    return torch.cat([torch.randint(high, (1,), generator=generator) for generator in generators])
