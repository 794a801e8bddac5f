"""MedSegDiff-V1 (Wu et al. 2022, arXiv 2211.00611), as the paper describes it.

Where paper (P) and released code (C) differ, and what is taken:

====================  ========================================================================================
input of the trunk    P: x_t alone, the image has its own encoder. C: both concatenated. Taken: P.
dynamic conditional   P (eq. 3): A = (LN(m_I) * LN(m_x)) * m_I on the middle two stages. C: a spatial times a
encoding              channel gate on four stages; eq. 3 is defined but never called. Taken: P.
FF-Parser             P (eq. 4-6): a complex map on the x_t features on their way to the image encoder. C: only
                      at 256 x 256, initialised with noise. Taken: P, at any size, see ``ff_parser.py``.
join                  P (eq. 2): E^I + E^x goes to the last stage. C: plus a random projection that is made
                      anew in every forward pass. Taken: P.
condition's own mask  P: none. C: an auxiliary head, trained by ten times its squared error and blended into
                      the reported mask. Taken: P.
variance              P: the plain noise loss. C: learned, with a variational bound. Taken: P.
====================  ========================================================================================

Not in the paper, and inferred: the image encoder has no time embedding (time reaches it through m_x), the last
stage is a residual block, self-attention and a residual block as in the DDPM network, and skips come from the
encoder of x_t.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from diffmedseg.models.denoiser import ChannelAxis, Condition, Denoiser, repeat_for_samples
from diffmedseg.models.layers import Bottleneck, Stage, TimeEmbedding, UNetDecoder, downsample, layer_norm
from diffmedseg.models.medsegdiff.ff_parser import FFParser

Size = Literal["tiny", "base", "paper"]


@dataclass(frozen=True)
class SizeSpec:
    """Width and depth of the network.

    Attributes:
        widths: Channels per level, from fine to coarse.
        blocks: Residual blocks per level.
        dynamic: Levels with dynamic conditional encoding: the middle two.
    """

    widths: tuple[int, ...]
    blocks: int
    dynamic: tuple[int, ...]


SIZES: dict[Size, SizeSpec] = {
    "tiny": SizeSpec((16, 32, 48, 64), 1, (1, 2)),
    "base": SizeSpec((32, 64, 96, 128), 1, (1, 2)),
    # MedSegDiff-B in the released README: base 128, multipliers (1, 1, 2, 2, 4, 4), two blocks, at 256 x 256.
    "paper": SizeSpec((128, 128, 256, 256, 512, 512), 2, (2, 3)),
}


class DynamicConditionalEncoding(nn.Module):
    """Lets the current x_t steer the image encoder (eq. 3), through an FF-Parser (eq. 4-6).

    Args:
        channels: Channels of both maps.
        affinity: Whether to form the affinity product; if not, the filtered map of x_t is added.
        ff_parser: Whether to filter the map of x_t.
    """

    def __init__(self, channels: int, affinity: bool, ff_parser: bool) -> None:
        super().__init__()
        self.affinity = affinity
        self.filter: nn.Module = FFParser(channels) if ff_parser else nn.Identity()

    def forward(self, m_i: Tensor, m_x: Tensor) -> Tensor:
        """Combine the image's map and the mask's, both (B, C, H, W)."""
        m_x = self.filter(m_x)
        return layer_norm(m_i) * layer_norm(m_x) * m_i if self.affinity else m_i + m_x


class MedSegDiffV1(Denoiser):
    """Two encoders, one for x_t and one for the image, joined at the bottleneck; a U-Net decoder.

    The image encoder depends on x_t from the first dynamic level on, so only the levels before it are shared by
    the steps and samples of an image.

    Args:
        image_channels: C.
        mask_channels: K.
        size: A row of ``SIZES``.
        dynamic_encoding: The affinity product of eq. 3 (the paper's "Dy-Cond" ablation).
        ff_parser: The filter of eq. 4-6 (the paper's "FF-Parser" ablation). With both off the image encoder runs by
            itself: the paper's plain baseline.
        dropout: Dropout of the residual blocks.
    """

    title = "MedSegDiff (Wu et al. 2022)"
    papers = ("Wu et al. 2022: MedSegDiff, arXiv 2211.00611",)

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        size: Size = "base",
        dynamic_encoding: bool = True,
        ff_parser: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        spec = SIZES[size]
        widths, blocks = spec.widths, spec.blocks
        self.divisor = 2 ** (len(widths) - 1)
        time_channels = 4 * widths[0]
        before = (widths[0], *widths[:-1])
        self.time = TimeEmbedding(time_channels)
        self.x_stem = nn.Conv2d(mask_channels, widths[0], 3, padding=1)
        self.image_stem = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        self.x_stages = nn.ModuleList(
            Stage(a, b, blocks, time_channels, dropout) for a, b in zip(before, widths, strict=True)
        )
        self.image_stages = nn.ModuleList(Stage(a, b, blocks, 0, dropout) for a, b in zip(before, widths, strict=True))
        self.x_down = nn.ModuleList(downsample(width) for width in widths[:-1])
        self.image_down = nn.ModuleList(downsample(width) for width in widths[:-1])
        levels = spec.dynamic if dynamic_encoding or ff_parser else ()
        self.dynamic = nn.ModuleDict(
            {str(i): DynamicConditionalEncoding(widths[i], dynamic_encoding, ff_parser) for i in levels}
        )
        self.first_dynamic = min(levels, default=len(widths))
        self.bottleneck = Bottleneck(widths[-1], time_channels, dropout)
        self.decoder = UNetDecoder(widths, mask_channels, blocks, time_channels, dropout)

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the stems of x_t and image, and the head; see the base class."""
        return {
            "x_stem": ChannelAxis("regions"),
            "image_stem": ChannelAxis("channels"),
            "decoder.head.2": ChannelAxis("regions", "output"),
        }

    def _image_level(self, level: int, m_i: Tensor) -> Tensor:
        out: Tensor = self.image_stages[level](m_i if level == 0 else self.image_down[level - 1](m_i))
        return out

    def encode(self, image: Tensor) -> Condition:
        """Run the image encoder up to the first level that depends on x_t; see the base class."""
        self.check_image(image)
        m_i = self.image_stem(image)
        for level in range(min(self.first_dynamic + 1, len(self.image_stages))):
            m_i = self._image_level(level, m_i)
        return Condition((m_i,))

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the image encoder by itself, without x_t; see the base class."""
        self.check_image(image)
        m_i, maps = self.image_stem(image), []
        for level in range(len(self.image_stages)):
            m_i = self._image_level(level, m_i)
            maps.append(m_i)
        return tuple(maps)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict; see the base class."""
        time = self.time(t)
        m_i = repeat_for_samples(condition.features[0], len(x_t))
        m_x = self.x_stem(x_t)
        skips = []
        for level, stage in enumerate(self.x_stages):
            m_x = stage(
                m_x if level == 0 else self.x_down[level - 1](m_x), time
            )  # (B * S, widths[level], H / 2^level, W / 2^level)
            skips.append(m_x)
            if level > self.first_dynamic:
                m_i = self._image_level(level, m_i)
            if str(level) in self.dynamic:
                m_i = self.dynamic[str(level)](m_i, m_x)
        out: Tensor = self.decoder(self.bottleneck(m_i + m_x, time), skips, time)
        return out
