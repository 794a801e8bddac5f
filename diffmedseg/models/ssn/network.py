"""The network of SSN: the network of the supervised baseline, with a covariance of its logits."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.models.denoiser import ChannelAxis, Condition, nested_axes
from diffmedseg.models.layers import group_norm, resize
from diffmedseg.models.low_rank_normal import LowRankNormal
from diffmedseg.models.recommended import Recommended
from diffmedseg.models.sizes import Size
from diffmedseg.models.supervised.networks import DirectNetwork, ImageMaps, condition_network
from diffmedseg.models.supervised.smp import ENCODER_DEPTH, DecoderWidth

#: Rank of the covariance in the paper's experiments and in the released code's configurations.
RANK = 10
#: Initial standard deviation of the logits. It is small, so that the mean is learned as in the supervised baseline.
_FIRST_DEVIATION = 0.1


class Covariance(nn.Module):
    """Heads that predict a low-rank covariance from the last map of a network, by 1 x 1 convolutions as in the paper.

    The paper's diagonal is an exponential plus 1e-5, for an inverse that sampling does not need. Here the standard
    deviation is a softplus. An exponential can overflow in confident background, where the loss does not limit it;
    against this, the released code masks the covariance outside the brain.

    Args:
        in_channels: Channels of the map.
        mask_channels: K.
        rank: Number of factors.
    """

    def __init__(self, in_channels: int, mask_channels: int, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}; it has to be at least 1.")
        self.rank = rank
        self.norm = nn.Sequential(group_norm(in_channels), nn.SiLU())
        self.factors = nn.Conv2d(in_channels, mask_channels * rank, 1)
        self.deviation = nn.Conv2d(in_channels, mask_channels, 1)
        for head, bias in ((self.factors, 0.0), (self.deviation, math.log(math.expm1(_FIRST_DEVIATION)))):
            nn.init.normal_(head.weight, std=_FIRST_DEVIATION / math.sqrt(rank * in_channels))
            nn.init.constant_(head.bias, bias)  # type: ignore[arg-type]  # these convolutions have a bias

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return both heads; see :meth:`~diffmedseg.models.Denoiser.channel_axes`."""
        return {
            "factors": ChannelAxis("regions", "output", each=self.rank),
            "deviation": ChannelAxis("regions", "output"),
        }

    def forward(self, maps: ImageMaps) -> LowRankNormal:
        """Return the distribution of the logits. Its mean is the network's own mask."""
        x, size = self.norm(maps.decoded), maps.prior.shape[-2:]
        factors = resize(self.factors(x).float(), size)
        # The factors of each region are contiguous.
        factors = factors.reshape(x.shape[0], -1, self.rank, *size).transpose(1, 2)
        return LowRankNormal(maps.prior.float(), factors, F.softplus(resize(self.deviation(x).float(), size)))


class StochasticUNet(DirectNetwork):
    """A network that predicts a low-rank normal distribution of the logits from the image.

    Args:
        image_channels: C.
        mask_channels: K. The regions share the factors, so they vary together.
        size: A row of MedSegDiff-V1's ``SIZES``, for our own network.
        rank: Rank of the covariance.
        dropout: Dropout of our own network's residual blocks.
        encoder: Name of an encoder such as ``lite0``, for a U-Net with this encoder; None for our own network. For this
            and the next six arguments, see :class:`~diffmedseg.models.SMPNetwork`.
        encoder_weights: Weights of the encoder: ``imagenet``, a file, or None for random weights.
        encoder_mean: Mean of the encoder's training images; None for the mean that belongs to its weights.
        encoder_std: Standard deviation of these images.
        encoder_frozen_norm: Whether the encoder's BatchNorm layers are frozen.
        decoder_channels: Channels of the decoder's stages, or ``slim``; None for the usual channels.
        encoder_depth: Number of times that the encoder halves the image, 3 to 5.
    """

    title = "SSN (Stochastic Segmentation Network on the supervised baseline's trunk)"
    papers = ("Monteiro et al. 2020: Stochastic Segmentation Networks, arXiv 2006.06015",)
    #: A sample costs only a sum over the factors. So 16 samples, as in the tables of papers, need one pass, too.
    recommended = Recommended(num_samples=16, num_steps=1, val_num_samples=8, val_num_steps=1)

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        size: Size = "base",
        rank: int = RANK,
        dropout: float = 0.0,
        encoder: str | None = None,
        encoder_weights: str | None = None,
        encoder_mean: Sequence[float] | None = None,
        encoder_std: Sequence[float] | None = None,
        encoder_frozen_norm: bool = False,
        decoder_channels: DecoderWidth | Sequence[int] | None = None,
        encoder_depth: int = ENCODER_DEPTH,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        self.trunk = condition_network(
            image_channels, mask_channels, size, dropout,
            encoder, encoder_weights, encoder_mean, encoder_std, encoder_frozen_norm, decoder_channels,
            encoder_depth,
        )  # fmt: skip
        self._settle(**self.trunk.settled)
        self.divisor = self.trunk.divisor
        self.covariance = Covariance(self.trunk.decoded_channels, mask_channels, rank)

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the axes of the trunk and the covariance; see the base class."""
        trunk, covariance = self.trunk.channel_axes(), self.covariance.channel_axes()
        return nested_axes("trunk", trunk) | nested_axes("covariance", covariance)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters in the trunk; see the base class."""
        return self.trunk.encoder_parameters()

    def maps(self, image: Tensor) -> ImageMaps:
        """Segment without noise, by the mean of the logits; see the base class."""
        return self.trunk.maps(image)

    def encode(self, image: Tensor) -> Condition:
        """Return the distribution of the logits, and its mean as the prior; see the base class."""
        maps = self.maps(image)
        return Condition((), maps.prior, self.covariance(maps))

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the trunk; see the base class."""
        return self.trunk.image_maps(image)
