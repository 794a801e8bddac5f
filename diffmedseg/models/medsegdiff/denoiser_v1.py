"""MedSegDiff-V1 (Wu et al. 2022, arXiv 2211.00611), as the paper describes it.

The paper (P) and the released code (C) differ. This module takes:

====================  ========================================================================================
input of the trunk    P: x_t alone, the image has its own encoder. C: both concatenated. Taken: P.
dynamic conditional   P (eq. 3): A = (LN(m_I) * LN(m_x)) * m_I on the middle two stages. C: a spatial gate times a
encoding              channel gate on four stages; eq. 3 is defined but never called. Taken: P.
FF-Parser             P (eq. 4-6): a complex map on the x_t features before the image encoder gets them. C: only
                      at 256 x 256, initialised with noise. Taken: P, at any size, see ``ff_parser.py``.
join                  P (eq. 2): E^I + E^x goes to the last stage. C: plus a new random projection in every
                      forward pass. Taken: P.
condition's own mask  P: none. C: an auxiliary head, trained with ten times its squared error and blended into
                      the reported mask. Taken: P.
variance              P: the plain noise loss. C: learned, with a variational bound. Taken: P.
time                  P (eq. 2): in both encoders, E_t^I and E_t^x. C: not in the image's network. Taken: C, or P with
                      ``image_time``. With P, the steps of an image share only the first convolution.
stages                P: three per encoder, with ResNet34's residual blocks. C: six levels of two blocks. Taken: C at
                      the size ``paper``, P at the size ``resnet34``.
filter's grid         P: H x W x C. C: the same, halved. Taken: 17 x 9 x C, or P with ``filter_size``.
====================  ========================================================================================

The paper leaves two parts open. Here the skips come from the encoder of x_t. The last stage is a residual block,
self-attention and a residual block, as in the DDPM network. At the size ``resnet34`` the last stage is ResNet34's
fourth stage on the sum of the two encoders, and the first stage keeps the image's resolution.
"""

import torch
from torch import Tensor, nn

from diffmedseg.models.denoiser import ChannelAxis, Condition, Denoiser, repeat_for_samples
from diffmedseg.models.layers import (
    TimeEmbedding,
    layer_norm,
)
from diffmedseg.models.medsegdiff.ff_parser import FFParser
from diffmedseg.models.sizes import SIZES, TrunkSize

#: Grid points of a filter over the rows, if ``filter_size`` is not set.
_GRID = 17


class DynamicConditionalEncoding(nn.Module):
    """Lets the current x_t steer the image encoder (eq. 3), through an FF-Parser (eq. 4-6).

    Args:
        channels: Channels of both maps.
        affinity: Whether to form the affinity product. If not, the filtered map of x_t is added.
        ff_parser: Whether to filter the map of x_t.
        grid: Grid points of the filter over the rows.
    """

    def __init__(self, channels: int, affinity: bool, ff_parser: bool, grid: int = _GRID) -> None:
        super().__init__()
        self.affinity = affinity
        self.filter: nn.Module = FFParser(channels, grid) if ff_parser else nn.Identity()

    def forward(self, m_i: Tensor, m_x: Tensor) -> Tensor:
        """Combine the map of the image and the map of x_t, both (B, C, H, W)."""
        m_x = self.filter(m_x)
        return layer_norm(m_i) * layer_norm(m_x) * m_i if self.affinity else m_i + m_x


class MedSegDiffV1(Denoiser):
    """Two encoders, for x_t and for the image, joined at the bottleneck, and a U-Net decoder.

    From the first dynamic level on, the maps of the image encoder depend on x_t. So the steps and samples of an image
    share only the maps up to there.

    Args:
        image_channels: C.
        mask_channels: K.
        size: A row of ``SIZES``.
        dynamic_encoding: Whether to form the affinity product of eq. 3 (the paper's "Dy-Cond" ablation).
        ff_parser: Whether to use the filter of eq. 4-6 (the paper's "FF-Parser" ablation). Without both, the image
            encoder does not depend on x_t, as in the paper's plain baseline.
        dropout: Dropout of the residual blocks.
        image_time: Whether the image encoder has time embeddings, too, as in eq. 2. It then runs at every step.
        filter_size: Side of the images in pixels. At this size, the filter has its own value at every frequency of each
            map, as in eq. 5 (H x W x C). Images of other sizes work as well. None for 17 x 9 values per channel.

    Raises:
        ValueError: If the filtered maps of images of ``filter_size`` do not have an even side.
    """

    title = "MedSegDiff (Wu et al. 2022)"
    papers = ("Wu et al. 2022: MedSegDiff, arXiv 2211.00611",)

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        size: TrunkSize = "base",
        dynamic_encoding: bool = True,
        ff_parser: bool = True,
        dropout: float = 0.0,
        image_time: bool = False,
        filter_size: int | None = None,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        spec = SIZES[size]
        widths, self.divisor = spec.widths, spec.divisor
        time_channels = 4 * widths[0]
        self.time = TimeEmbedding(time_channels)
        self.x_stem = nn.Conv2d(mask_channels, widths[0], 3, padding=1)
        self.image_stem = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        self.x_stages = spec.stages(time_channels, dropout)
        self.image_stages = spec.stages(time_channels if image_time else 0, dropout)
        self.x_down = spec.downsamplings()
        self.image_down = spec.downsamplings()
        levels = spec.dynamic if dynamic_encoding or ff_parser else ()
        grids = [_GRID if filter_size is None else _full_grid(filter_size, level) for level in levels]
        self.dynamic = nn.ModuleDict(
            {
                str(level): DynamicConditionalEncoding(widths[level], dynamic_encoding, ff_parser, grid)
                for level, grid in zip(levels, grids, strict=True)
            }
        )
        #: Levels of the image encoder that depend on the image alone.
        self.shared_levels = 0 if image_time else min(min(levels, default=len(widths)) + 1, len(widths))
        self.bottleneck = spec.bottleneck(time_channels, dropout)
        self.decoder = spec.decoder(mask_channels, time_channels, dropout)

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the stems of x_t and image, and the head; see the base class."""
        return {
            "x_stem": ChannelAxis("regions"),
            "image_stem": ChannelAxis("channels"),
            "decoder.head.2": ChannelAxis("regions", "output"),
        }

    def _image_level(self, level: int, m_i: Tensor, time: Tensor | None = None) -> Tensor:
        out: Tensor = self.image_stages[level](m_i if level == 0 else self.image_down[level - 1](m_i), time)
        return out

    def encode(self, image: Tensor) -> Condition:
        """Run the levels of the image encoder that depend on the image alone; see the base class."""
        self.check_image(image)
        m_i = self.image_stem(image)
        for level in range(self.shared_levels):
            m_i = self._image_level(level, m_i)
        return Condition((m_i,))

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the image encoder without x_t, at t = 0; see the base class."""
        self.check_image(image)
        m_i, maps = self.image_stem(image), []
        time = self.time(torch.zeros(len(image), device=image.device))
        for level in range(len(self.image_stages)):
            m_i = self._image_level(level, m_i, time)
            maps.append(m_i)
        return tuple(maps)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict; see the base class."""
        time = self.time(t)
        m_i = repeat_for_samples(condition.features[0], x_t.shape[0])
        m_x = self.x_stem(x_t)
        skips = []
        for level, stage in enumerate(self.x_stages):
            m_x = stage(
                m_x if level == 0 else self.x_down[level - 1](m_x), time
            )  # (B * S, widths[level], H / 2^level, W / 2^level)
            skips.append(m_x)
            if level >= self.shared_levels:
                m_i = self._image_level(level, m_i, time)
            if str(level) in self.dynamic:
                m_i = self.dynamic[str(level)](m_i, m_x)
        out: Tensor = self.decoder(self.bottleneck(m_i + m_x, time), skips, time)
        return out


def _full_grid(filter_size: int, level: int) -> int:
    """Return the grid of a filter with its own value at every frequency of a level's map, for images of a size.

    The rows of the grid hold the map's frequencies from -1/2 to 1/2, including both ends.
    """
    side: int = filter_size // 2**level
    if filter_size % 2 ** (level + 1) or side < 2:
        raise ValueError(
            f"filter_size is {filter_size}; it has to be divisible by {2 ** (level + 1)}, so that the filtered map of "
            f"level {level} has an even side. Give the side of your images."
        )
    return side + 1
