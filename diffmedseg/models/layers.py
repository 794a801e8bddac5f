"""Blocks that several denoisers share, for images and volumes."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Spatial dimensions of a network: 2 for images (B, C, H, W), 3 for volumes (B, C, D, H, W).
SpatialDims = Literal[2, 3]
Conv = nn.Conv2d | nn.Conv3d
AnyConv = TypeVar("AnyConv", nn.Conv2d, nn.Conv3d, nn.Conv2d | nn.Conv3d)

_CONV: dict[SpatialDims, type[Conv]] = {2: nn.Conv2d, 3: nn.Conv3d}


def conv(
    dims: SpatialDims, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0
) -> Conv:
    """Make a convolution in 2 or 3 dimensions with a square or cubic kernel."""
    return _CONV[dims](in_channels, out_channels, kernel, stride=stride, padding=padding)


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalise over groups of at least 4 channels, at most 32 groups (Wu & He 2018 use 32)."""
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)), channels)


def zero_init(module: AnyConv) -> AnyConv:
    """Set a convolution to zero, so that its branch outputs zero at first (Ho et al. 2020, released code)."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def layer_norm(m: Tensor) -> Tensor:
    """Normalise (B, C, ...) over the channels of each position."""
    return F.layer_norm(m.movedim(1, -1), m.shape[1:2]).movedim(-1, 1)


def resize(m: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map (B, C, h, w) bilinearly, or (B, C, d, h, w) trilinearly, to (B, C, *size)."""
    return m if tuple(m.shape[2:]) == tuple(size) else F.interpolate(m, tuple(size), mode=linear_mode(m))


def linear_mode(m: Tensor) -> str:
    """Return PyTorch's name of linear interpolation for a map (B, C, ...)."""
    return "bilinear" if m.ndim == 4 else "trilinear"


def patches_to_channels(m: Tensor, patch: int) -> Tensor:
    """Turn each square or cubic patch of a map (B, C, ...) into the channels of one position."""
    if m.ndim == 4:
        return F.pixel_unshuffle(m, patch)
    split = (part for side in m.shape[2:] for part in (side // patch, patch))
    return m.reshape(*m.shape[:2], *split).permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of t, then linear, SiLU, linear (Ho et al. 2020, appendix B).

    Args:
        channels: Length of the embedding.
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = 32
        # Wave lengths from 2 pi to 10,000 * 2 pi (Vaswani et al. 2017, arXiv 1706.03762, section 3.5).
        self.register_buffer("frequencies", 10_000 ** (-torch.arange(half) / half), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        """Embed (B,) time steps as (B, channels)."""
        angles = t[:, None].float() * self.frequencies
        embedding: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], 1))
        return embedding


class ResBlock(nn.Module):
    """A residual block: twice (GroupNorm, SiLU, convolution), with a skip.

    The time embedding is added after the first convolution. MedSegDiff, section 3.1 ("residual blocks"), with
    pre-activation as in the DDPM network that MedSegDiff builds on.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        time_channels: Length of the time embedding; 0 for a block without time.
        dropout: Probability of dropout before the second convolution.
        dims: Dimensions of the maps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_channels: int = 0,
        dropout: float = 0.0,
        dims: SpatialDims = 2,
    ) -> None:
        super().__init__()
        self.norm_1 = group_norm(in_channels)
        self.conv_1 = conv(dims, in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels) if time_channels else None
        self.norm_2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_init(conv(dims, out_channels, out_channels, 3, padding=1))
        self.skip = conv(dims, in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, ...), and (B, time_channels) if the block has time, to (B, out_channels, ...)."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        if self.time is not None and time is not None:
            h = h + self.time(F.silu(time)).reshape(*h.shape[:2], *[1] * (h.ndim - 2))
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        out: Tensor = self.skip(x) + h
        return out


class Stage(nn.Module):
    """Residual blocks at one resolution.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        blocks: Number of blocks, at least one.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of every block.
        dims: Dimensions of the maps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        time_channels: int = 0,
        dropout: float = 0.0,
        dims: SpatialDims = 2,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(ResBlock(a, b, time_channels, dropout, dims) for a, b in pairwise(widths))

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, ...) to (B, out_channels, ...)."""
        for block in self.blocks:
            x = block(x, time)
        return x


class SelfAttention(nn.Module):
    """Self-attention over positions, with a skip, as in the DDPM network's coarse levels.

    Args:
        channels: Input and output channels; each head has 32.
        dims: Dimensions of the maps.
    """

    def __init__(self, channels: int, dims: SpatialDims = 2) -> None:
        super().__init__()
        self.heads = max(channels // 32, 1)
        self.norm = group_norm(channels)
        self.qkv = conv(dims, channels, 3 * channels, 1)
        self.out = zero_init(conv(dims, channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, ...) to the same shape."""
        b, c, *size = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, math.prod(size))
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, positions, C / heads)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, *size)
        out: Tensor = x + self.out(h)
        return out


class Bottleneck(nn.Module):
    """The coarsest level of a U-Net: residual block, self-attention, residual block.

    Args:
        channels: Input and output channels.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of the blocks.
        dims: Dimensions of the maps.
    """

    def __init__(self, channels: int, time_channels: int = 0, dropout: float = 0.0, dims: SpatialDims = 2) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, time_channels, dropout, dims)
        self.attention = SelfAttention(channels, dims)
        self.block_2 = ResBlock(channels, channels, time_channels, dropout, dims)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, C, ...) to the same shape."""
        out: Tensor = self.block_2(self.attention(self.block_1(x, time)), time)
        return out


class LastStage(nn.Module):
    """The last stage of a residual network: it halves the resolution, and has residual blocks.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        blocks: Number of blocks.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of the blocks.
        dims: Dimensions of the maps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        time_channels: int = 0,
        dropout: float = 0.0,
        dims: SpatialDims = 2,
    ) -> None:
        super().__init__()
        self.down = downsample(in_channels, dims)
        self.stage = Stage(in_channels, out_channels, blocks, time_channels, dropout, dims)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, ...) to (B, out_channels, ...) with half the sides."""
        out: Tensor = self.stage(self.down(x), time)
        return out


class UNetDecoder(nn.Module):
    """The decoder of a U-Net: each level concatenates the encoder's map and has residual blocks.

    Args:
        widths: Channels of the encoder's levels, from fine to coarse.
        out_channels: Channels of the result.
        blocks: Residual blocks per level.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of the blocks.
        deepest: Channels of the decoder's input; None for the channels of the coarsest level.
        dims: Dimensions of the maps.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_channels: int,
        blocks: int,
        time_channels: int = 0,
        dropout: float = 0.0,
        deepest: int | None = None,
        dims: SpatialDims = 2,
    ) -> None:
        super().__init__()
        upper_widths = [*widths[1:], deepest or widths[-1]]
        self.stages = nn.ModuleList(
            Stage(up + width, width, blocks, time_channels, dropout, dims)
            for up, width in zip(upper_widths, widths, strict=True)
        )
        self.head = nn.Sequential(
            group_norm(widths[0]), nn.SiLU(), zero_init(conv(dims, widths[0], out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor], time: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            x: The deepest map, (B, deepest, ...), at the resolution of the coarsest skip or below.
            skips: The encoder's maps, (B, widths[i], ...), from fine to coarse. Each has half the sides of the map
                before it.
            time: (B, time_channels) if the blocks have time.

        Returns:
            (B, out_channels, ...), at the resolution of the finest skip.
        """
        out: Tensor = self.head(self.finest(x, skips, time))
        return out

    def finest(self, x: Tensor, skips: Sequence[Tensor], time: Tensor | None = None) -> Tensor:
        """Return the last map before the head, (B, widths[0], ...)."""
        for stage, skip in zip(reversed(self.stages), reversed(skips), strict=True):
            if x.shape[2:] != skip.shape[2:]:
                x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = stage(torch.cat([x, skip], 1), time)
        return x


def downsample(in_channels: int, dims: SpatialDims = 2) -> Conv:
    """Make a strided convolution that halves the resolution."""
    return conv(dims, in_channels, in_channels, 3, stride=2, padding=1)
