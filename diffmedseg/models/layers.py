"""Blocks that several denoisers share."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalise over groups of at least 4 channels, at most 32 groups (Wu & He 2018 use 32)."""
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)), channels)


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Set a convolution to zero, so that what it ends starts as nothing (Ho et al. 2020, released code)."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def layer_norm(m: Tensor) -> Tensor:
    """Normalise (B, C, H, W) over the channels of each position."""
    return F.layer_norm(m.movedim(1, -1), m.shape[1:2]).movedim(-1, 1)


def resize(m: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map (B, C, h, w) bilinearly to (B, C, *size)."""
    return m if tuple(m.shape[-2:]) == tuple(size) else F.interpolate(m, tuple(size), mode="bilinear")


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of t, then linear, SiLU, linear (Ho et al. 2020, appendix B).

    Args:
        channels: Length of the embedding that comes out.
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
    """Twice (GroupNorm, SiLU, convolution), with a skip; time is added after the first convolution.

    MedSegDiff, section 3.1 ("residual blocks"); pre-activation as in the DDPM network it builds on.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        time_channels: Length of the time embedding; 0 for a block without time.
        dropout: Probability before the second convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, time_channels: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_1 = group_norm(in_channels)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels) if time_channels else None
        self.norm_2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, H, W), and (B, time_channels) where the block has time, to (B, out_channels, H, W)."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        if self.time is not None and time is not None:
            h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        out: Tensor = self.skip(x) + h
        return out


class Stage(nn.Module):
    """Residual blocks at one resolution.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        blocks: Number of blocks, at least one.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of every block.
    """

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, time_channels: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(ResBlock(a, b, time_channels, dropout) for a, b in pairwise(widths))

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        for block in self.blocks:
            x = block(x, time)
        return x


class SelfAttention(nn.Module):
    """Self-attention over positions, with a skip (as in the DDPM network's coarse levels).

    Args:
        channels: Channels in and out; heads have 32 each.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // 32, 1)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, H * W, C / heads)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, height, width)
        out: Tensor = x + self.out(h)
        return out


class Bottleneck(nn.Module):
    """The coarsest level of a U-Net: residual block, self-attention, residual block.

    Args:
        channels: Channels in and out.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of the blocks.
    """

    def __init__(self, channels: int, time_channels: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, time_channels, dropout)
        self.attention = SelfAttention(channels)
        self.block_2 = ResBlock(channels, channels, time_channels, dropout)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = self.block_2(self.attention(self.block_1(x, time)), time)
        return out


class LastStage(nn.Module):
    """The last stage of a residual network: half the resolution, then residual blocks.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        blocks: Number of blocks.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of the blocks.
    """

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, time_channels: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.down = downsample(in_channels)
        self.stage = Stage(in_channels, out_channels, blocks, time_channels, dropout)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / 2, W / 2)."""
        out: Tensor = self.stage(self.down(x), time)
        return out


class UNetDecoder(nn.Module):
    """The way up of a U-Net: at each level join the encoder's map, then residual blocks.

    Args:
        widths: Channels of the encoder's levels, from fine to coarse.
        out_channels: Channels of the result.
        blocks: Residual blocks per level.
        time_channels: Length of the time embedding; 0 for none.
        dropout: Dropout of the blocks.
        deepest: Channels of the map that it starts from; None for those of the coarsest level.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_channels: int,
        blocks: int,
        time_channels: int = 0,
        dropout: float = 0.0,
        deepest: int | None = None,
    ) -> None:
        super().__init__()
        above = [*widths[1:], deepest or widths[-1]]
        self.stages = nn.ModuleList(
            Stage(up + width, width, blocks, time_channels, dropout) for up, width in zip(above, widths, strict=True)
        )
        self.head = nn.Sequential(
            group_norm(widths[0]), nn.SiLU(), zero_init(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor], time: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            x: The deepest map, (B, deepest, h, w), at the coarsest skip's resolution or below.
            skips: The encoder's maps, (B, widths[i], H / 2^i, W / 2^i), from fine to coarse.
            time: (B, time_channels) where the blocks have time.

        Returns:
            (B, out_channels, H, W).
        """
        out: Tensor = self.head(self.finest(x, skips, time))
        return out

    def finest(self, x: Tensor, skips: Sequence[Tensor], time: Tensor | None = None) -> Tensor:
        """Decode as far as the last map before the head, (B, widths[0], H, W)."""
        for stage, skip in zip(reversed(self.stages), reversed(skips), strict=True):
            if x.shape[-2:] != skip.shape[-2:]:
                x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = stage(torch.cat([x, skip], 1), time)
        return x


def downsample(in_channels: int) -> nn.Conv2d:
    """Halve the resolution by a strided convolution."""
    return nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1)
