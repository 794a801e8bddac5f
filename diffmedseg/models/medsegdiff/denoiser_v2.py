"""MedSegDiff-V2 (Wu et al. 2023, arXiv 2301.11798), as far as public descriptions go.

A condition network sees the image alone. The spatial anchor condition (section 3.2) gates the first map of the
diffusion network by the last map of the condition network. The semantic condition (section 3.3) is attention between
the deepest maps of the two networks. The released code called V2 has neither. The condition does not depend on x_t, so
``encode`` runs once per image.

The full text of the paper was not at hand. The formulas come from second-hand accounts of it. These parts have no
formula in the accounts, or are missing there, and were inferred:

====================  ========================================================================================
trunks                As in our V1: residual blocks, self-attention at the bottleneck. The condition network is the
                      supervised baseline, or a network of segmentation-models-pytorch.
anchor                The Gaussian is 5 x 5 per channel and starts with a standard deviation of 1.5 pixels. It gates the
                      last map of the first stage.
SS-Former's layers    Two attentions per layer, each followed by an MLP, and the number of layers.
affinity              Normalised maps, no softmax. See ``ss_former.py``, also for the input of the filter.
filter                Three layers on the coordinates of the spectrum, scaled and shifted by time. The filter is *twice*
                      a sigmoid, so that at first all frequencies pass.
end of SS-Former      The result is added to the deepest map of the diffusion network.
one part switched     The map of the missing part is added through a 1 x 1 convolution, so that the image always
off                   conditions the network.
anchor loss           beta 10 and alpha 5 (``MedSegDiffV2.recommended``).
====================  ========================================================================================
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from diffmedseg.diffusion import PriorLoss
from diffmedseg.models.denoiser import ChannelAxis, Condition, Denoiser, nested_axes, repeat_for_samples
from diffmedseg.models.layers import TimeEmbedding, resize
from diffmedseg.models.medsegdiff.ss_former import SSFormer
from diffmedseg.models.recommended import Recommended
from diffmedseg.models.sizes import SIZES, Size
from diffmedseg.models.supervised.networks import condition_network
from diffmedseg.models.supervised.smp import ENCODER_DEPTH, DecoderWidth

#: Number of layers of SS-Former; the paper says several.
_LAYERS: dict[Size, int] = {"tiny": 1, "base": 2, "paper": 4}


class SpatialAnchor(nn.Module):
    """Uncertain spatial attention (arXiv 2301.11798, section 3.2): Max(f * k_Gauss, f), 1 x 1 convolution, sigmoid.

    Args:
        in_channels: Channels of the condition network's last map.
        out_channels: Channels of the gated map.
    """

    _SIDE, _DEVIATION = 5, 1.5  # pixels

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        position = torch.arange(self._SIDE) - (self._SIDE - 1) / 2
        line = torch.exp(-(position**2) / (2 * self._DEVIATION**2))
        kernel = line[:, None] * line / line.sum() ** 2
        self.gaussian = nn.Conv2d(
            in_channels, in_channels, self._SIDE, padding=self._SIDE // 2, groups=in_channels, bias=False
        )
        with torch.no_grad():
            self.gaussian.weight.copy_(kernel.expand_as(self.gaussian.weight))
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, f: Tensor) -> Tensor:
        """Return the gate, (B, out_channels, H, W) in [0, 1], from a map (B, in_channels, H, W)."""
        out: Tensor = self.project(torch.maximum(self.gaussian(f), f)).sigmoid()
        return out


class MedSegDiffV2(Denoiser):
    """A condition network on the image, and a U-Net on x_t that it conditions at the first and the deepest map.

    The description of this module lists the inferred parts.

    Args:
        image_channels: C.
        mask_channels: K.
        size: A row of MedSegDiff-V1's ``SIZES``, for both networks.
        anchor: Whether the condition network's last map gates the U-Net's first map. If not, it is added.
        semantic: Whether SS-Former joins the deepest maps. If not, they are added.
        spectrum_filter: Whether SS-Former filters its affinities.
        encoder: Name of an encoder such as ``lite0``. The condition network is then a U-Net with this encoder. None for
            our own network. For this and the next six arguments, see :class:`~diffmedseg.models.SMPNetwork`.
        encoder_weights: Weights of the encoder: ``imagenet``, a file, or None for random weights.
        encoder_mean: Mean of the encoder's training images; None for the mean that belongs to its weights.
        encoder_std: Standard deviation of these images.
        encoder_frozen_norm: Whether the encoder's BatchNorm layers are frozen.
        decoder_channels: Channels of the decoder's stages, or ``slim``; None for the usual channels.
        encoder_depth: Number of times that the encoder halves the image, 3 to 5.
        dropout: Dropout of the residual blocks.
    """

    title = "MedSegDiff-V2 (Wu et al. 2023)"
    papers = ("Wu et al. 2023: MedSegDiff-V2, arXiv 2301.11798",)
    has_prior = True
    #: The paper's beta and alpha, from second-hand accounts.
    recommended = Recommended(prior_loss=partial(PriorLoss, dice=1.0, bce=10.0, every=5))

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        size: Size = "base",
        anchor: bool = True,
        semantic: bool = True,
        spectrum_filter: bool = True,
        encoder: str | None = None,
        encoder_weights: str | None = None,
        dropout: float = 0.0,
        encoder_mean: Sequence[float] | None = None,
        encoder_std: Sequence[float] | None = None,
        encoder_frozen_norm: bool = False,
        decoder_channels: DecoderWidth | Sequence[int] | None = None,
        encoder_depth: int = ENCODER_DEPTH,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        spec = SIZES[size]
        widths, time_channels = spec.widths, 4 * spec.widths[0]
        self.condition = condition_network(
            image_channels, mask_channels, size, dropout,
            encoder, encoder_weights, encoder_mean, encoder_std, encoder_frozen_norm, decoder_channels,
            encoder_depth,
        )  # fmt: skip
        self._settle(**self.condition.settled)
        self.coarsest = 2 ** (len(widths) - 1)
        self.divisor = max(self.coarsest, self.condition.divisor)
        decoded, deepest = self.condition.decoded_channels, self.condition.deepest_channels
        self.anchored = anchor
        self.first: nn.Module = SpatialAnchor(decoded, widths[0]) if anchor else nn.Conv2d(decoded, widths[0], 1)
        self.deepest = nn.Conv2d(deepest, widths[-1], 1)
        self.time = TimeEmbedding(time_channels)
        self.stem = nn.Conv2d(mask_channels, widths[0], 3, padding=1)
        self.stages = spec.stages(time_channels, dropout)
        self.down = spec.downsamplings()
        self.semantic = SSFormer(widths[-1], time_channels, _LAYERS[size] if semantic else 0, spectrum_filter)
        self.bottleneck = spec.bottleneck(time_channels, dropout)
        self.decoder = spec.decoder(mask_channels, time_channels, dropout)

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the axes of the condition network, the stem and the head; see the base class."""
        axes = {"stem": ChannelAxis("regions"), "decoder.head.2": ChannelAxis("regions", "output")}
        return nested_axes("condition", self.condition.channel_axes()) | axes

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters in the condition network; see the base class."""
        return self.condition.encoder_parameters()

    def encode(self, image: Tensor) -> Condition:
        """Run the condition network; see the base class."""
        self.check_image(image)
        maps = self.condition.maps(image)
        size = (image.shape[-2], image.shape[-1])
        decoded = resize(maps.decoded, size)
        deepest = self.deepest(resize(maps.deepest, (size[0] // self.coarsest, size[1] // self.coarsest)))
        return Condition((self.first(decoded), deepest), maps.prior)

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the condition network; see the base class."""
        return self.condition.image_maps(image)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict; see the base class."""
        time = self.time(t)
        first, deepest = (repeat_for_samples(feature, x_t.shape[0]) for feature in condition.features)
        m, skips = self.stem(x_t), []
        for level, stage in enumerate(self.stages):
            m = stage(m if level == 0 else self.down[level - 1](m), time)
            if level == 0:
                m = m + (first * m if self.anchored else first)
            skips.append(m)
        out: Tensor = self.decoder(self.bottleneck(self.semantic(deepest, m, time), time), skips, time)
        return out
