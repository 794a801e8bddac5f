"""Sizes of the networks that have the trunk of MedSegDiff-V1, with that trunk or by its widths."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from diffmedseg.models.layers import Bottleneck, LastStage, SpatialDims, Stage, UNetDecoder, downsample

Size = Literal["tiny", "base", "paper"]
#: Sizes of MedSegDiff-V1 and of its trunk trained directly.
TrunkSize = Literal["tiny", "base", "paper", "resnet34"]


@dataclass(frozen=True)
class SizeSpec:
    """Width and depth of the network.

    Attributes:
        widths: Channels per level, from fine to coarse.
        blocks: Residual blocks per level.
        dynamic: Levels with dynamic conditional encoding: the middle two.
        encoder_blocks: Residual blocks per level of the encoders, where they have other numbers than the decoder.
        last: Channels and residual blocks of a last stage at half the coarsest level's resolution; None for a
            bottleneck at the coarsest level.
    """

    widths: tuple[int, ...]
    blocks: int
    dynamic: tuple[int, ...]
    encoder_blocks: tuple[int, ...] | None = None
    last: tuple[int, int] | None = None

    @property
    def divisor(self) -> int:
        """What the sides of images have to be divisible by."""
        divisor: int = 2 ** (len(self.widths) - (self.last is None))
        return divisor

    @property
    def deepest(self) -> int:
        """Channels of the deepest map."""
        return self.widths[-1] if self.last is None else self.last[0]

    def stages(self, time_channels: int, dropout: float, dims: SpatialDims = 2) -> nn.ModuleList:
        """Make the stages of an encoder, whose blocks have time unless ``time_channels`` is 0."""
        inputs, blocks = (self.widths[0], *self.widths[:-1]), self.encoder_blocks or (self.blocks,) * len(self.widths)
        return nn.ModuleList(
            Stage(a, b, count, time_channels, dropout, dims)
            for a, b, count in zip(inputs, self.widths, blocks, strict=True)
        )

    def downsamplings(self, dims: SpatialDims = 2) -> nn.ModuleList:
        """Make what lies between the stages of an encoder."""
        return nn.ModuleList(downsample(width, dims) for width in self.widths[:-1])

    def bottleneck(self, time_channels: int, dropout: float, dims: SpatialDims = 2) -> nn.Module:
        """Make what comes after the encoders."""
        if self.last is None:
            return Bottleneck(self.widths[-1], time_channels, dropout, dims)
        return LastStage(self.widths[-1], *self.last, time_channels, dropout, dims)

    def decoder(self, out_channels: int, time_channels: int, dropout: float, dims: SpatialDims = 2) -> UNetDecoder:
        """Make the decoder."""
        return UNetDecoder(self.widths, out_channels, self.blocks, time_channels, dropout, self.deepest, dims)


SIZES: dict[TrunkSize, SizeSpec] = {
    "tiny": SizeSpec((16, 32, 48, 64), 1, (1, 2)),
    "base": SizeSpec((32, 64, 96, 128), 1, (1, 2)),
    # MedSegDiff-B in the released README: base 128, multipliers (1, 1, 2, 2, 4, 4), two blocks, at 256 x 256.
    "paper": SizeSpec((128, 128, 256, 256, 512, 512), 2, (2, 3)),
    # The paper's text: three stages per encoder with the blocks of ResNet34 (He et al. 2016, arXiv 1512.03385, table
    # 1). The middle two of all four are dynamic; the sum of the encoders goes to the last one.
    "resnet34": SizeSpec((64, 128, 256), 1, (1, 2), encoder_blocks=(3, 4, 6), last=(512, 3)),
}
