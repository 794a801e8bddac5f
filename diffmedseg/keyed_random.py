"""Keyed randomness: the noise of a sample depends on its key, and never on the time of the draw.

A generator is made from a key such as ``(seed, case, sample index)``. So results do not depend on batch size,
chunking, order or the number of processes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def keyed_generator(*key: object) -> torch.Generator:
    """Make a CPU generator. Its stream depends only on ``key``.

    The generator is always on the CPU, where streams are the same on every machine. PyTorch's Mersenne twister uses
    the lower 32 bits of a seed, so two of 10,000 keys coincide with a probability of about 1 %. This is harmless: two
    images would get the same noise.

    Args:
        key: Values with an unambiguous ``str``, such as integers and names.
    """
    digest = blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class NoiseGenerator(ABC):
    """A source of noise that replaces a generator of PyTorch in the functions of this module."""

    @abstractmethod
    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise of a shape, float32, on the CPU."""

    @abstractmethod
    def uniform(self, number: int) -> Tensor:
        """Draw numbers in [0, 1], float32, on the CPU."""


@dataclass(frozen=True)
class BlendedGenerator(NoiseGenerator):
    """A blend of the noise of two generators, for example for a slice between two other slices.

    The noise a cos(angle) + b sin(angle) is standard normal, too. The correlation of two such noises is the cosine of
    the difference of their angles.

    Attributes:
        first: Generator of a.
        second: Generator of b.
        angle: Angle in radians, from 0 (only a) to pi / 2 (only b).
    """

    first: torch.Generator
    second: torch.Generator
    angle: float

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Blend the noise of both generators."""
        a, b = (torch.randn(tuple(shape), generator=generator) for generator in (self.first, self.second))
        return a * math.cos(self.angle) + b * math.sin(self.angle)

    def uniform(self, number: int) -> Tensor:
        """Return the normal distribution function of normal noise."""
        numbers: Tensor = torch.special.ndtr(self.normal((number,)))
        return numbers


@dataclass(frozen=True)
class SplitGenerator(NoiseGenerator):
    """Normal noise of one generator and uniform numbers of another.

    Attributes:
        normals: Generator of the normal noise.
        uniforms: Generator of the uniform numbers.
    """

    normals: "Generator"
    uniforms: "Generator"

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw from the first generator."""
        return _normal(self.normals, shape)

    def uniform(self, number: int) -> Tensor:
        """Draw from the second generator."""
        return _uniform(self.uniforms, number)


Generator = torch.Generator | NoiseGenerator


def between(key: tuple[object, ...], position: float) -> BlendedGenerator:
    """Return the noise at a position on a line. The noise at whole numbers is independent.

    The correlation is 0 to 0.71 at a distance of 1, and 0 at a distance of 2.

    Args:
        key: Key of the line; see :func:`keyed_generator`.
        position: Position, such as the position of a slice in multiples of a distance.
    """
    below = math.floor(position)
    first, second = (keyed_generator(*key, "knot", number) for number in (below, below + 1))
    return BlendedGenerator(first, second, (position - below) * math.pi / 2)


class SliceKey(str):
    """A noise key for one slice: the volume's key and the position of the slice.

    As a string it equals the volume's key. Code that does not need the position uses it as the key of the volume.

    Args:
        volume: The key of the volume.
        number: Number of the slice.
        spacing: Distance between neighbouring slices, in mm.
        length: Distance from which slices have independent noise, in mm; 0 makes the noise of all slices independent.
    """

    def __new__(cls, volume: str, number: int, spacing: float, length: float) -> "SliceKey":
        """Make the key, which is a string."""
        key = super().__new__(cls, volume)
        key.number, key.place, key.length = number, number * spacing, length
        return key

    number: int
    place: float
    length: float

    def generator(self, seed: int, sample: int) -> Generator:
        """Return the generator of a sample of the slice."""
        if self.length == 0:
            return keyed_generator(seed, self, sample, "slice", self.number)
        return between((seed, self, sample), 2 * self.place / self.length)


def check_slice_correlation(length: float | None) -> float | None:
    """Check the correlation length of noise over slices, in mm, and return it; see :class:`SliceKey`.

    Raises:
        ValueError: If the length is not a distance.
    """
    if length is not None and not 0 <= length < math.inf:
        raise ValueError(
            f"slice_correlation is {length}; expected a distance in mm, at least 0, or none for shared noise."
        )
    return length


def slice_keys(volume: str, numbers: Iterable[int], spacing: float, length: float | None) -> list[str]:
    """Return the noise keys of the slices of a volume.

    Args:
        volume: The key of the volume.
        numbers: The numbers of the slices.
        spacing: Distance between neighbouring slices, in mm.
        length: Distance for independent noise, as in :class:`SliceKey`; None for noise that all slices share.
    """
    return [volume if length is None else SliceKey(volume, number, spacing, length) for number in numbers]


def sample_generator(seed: int, key: str, sample: int) -> Generator:
    """Return the generator of a sample of an image, or of a slice if the key is a :class:`SliceKey`."""
    return key.generator(seed, sample) if isinstance(key, SliceKey) else keyed_generator(seed, key, sample)


def keyed_uniform(number: int, generators: Sequence[Generator]) -> Tensor:
    """Draw numbers in [0, 1] from each generator, shape (len(generators), number), float32, on the CPU."""
    return torch.stack([_uniform(generator, number) for generator in generators])


def keyed_normal(shape: Sequence[int], generators: Sequence[Generator], device: torch.device) -> Tensor:
    """Draw standard normal noise, one row from each generator.

    Args:
        shape: Shape of a row, such as (K, H, W).
        generators: One CPU generator per row; each is advanced.
        device: Device of the result; the draw is on the CPU.

    Returns:
        Noise of shape ``(len(generators), *shape)``, float32.
    """
    return torch.cat([_normal(generator, (1, *shape)) for generator in generators]).to(device)


def keyed_integers(high: int, generators: Sequence[Generator]) -> Tensor:
    """Draw one integer in [0, high) from each generator, shape (len(generators),), int64, on the CPU."""
    return torch.cat([_integer(generator, high) for generator in generators])


def _normal(generator: Generator, shape: Sequence[int]) -> Tensor:
    if isinstance(generator, NoiseGenerator):
        return generator.normal(shape)
    return torch.randn(tuple(shape), generator=generator)


def _uniform(generator: Generator, number: int) -> Tensor:
    if isinstance(generator, NoiseGenerator):
        return generator.uniform(number)
    return torch.rand(number, generator=generator)


def _integer(generator: Generator, high: int) -> Tensor:
    if isinstance(generator, NoiseGenerator):
        return (generator.uniform(1) * high).long().clamp(max=high - 1)
    return torch.randint(high, (1,), generator=generator)
