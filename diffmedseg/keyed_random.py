"""Keyed randomness: the noise of a sample depends on what it is for, never on when it is drawn.

A generator is made from a key such as ``(seed, case, sample index)``. Results therefore do not depend on batch size,
chunking, order or the number of processes.
"""

from collections.abc import Sequence
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


def keyed_normal(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Draw standard normal noise, one row from each generator.

    Args:
        shape: Shape of a row, such as (K, H, W).
        generators: One CPU generator per row; each is advanced.
        device: Where the result is wanted; the draw happens on the CPU.

    Returns:
        Noise of shape ``(len(generators), *shape)``, float32.
    """
    return torch.cat([torch.randn(1, *shape, generator=generator) for generator in generators]).to(device)


def keyed_integers(high: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one integer in [0, high) from each generator, shape (len(generators),), int64, on the CPU."""
    return torch.cat([torch.randint(high, (1,), generator=generator) for generator in generators])
