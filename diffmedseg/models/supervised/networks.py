"""Networks that predict the mask directly, as the ``prior`` of the condition.

By themselves they are the supervised baseline. In MedSegDiff-V2 and MedSegDiff-Lite they are the condition network, so
comparisons with the baseline are between equal networks.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffmedseg.models.denoiser import ChannelAxis, Condition, Denoiser
from diffmedseg.models.encoder_loading import batch_norms, first_convolution, share_kernels
from diffmedseg.models.encoders import EncoderWeights, Normalise, encoder_name, find_weights, is_none
from diffmedseg.models.layers import SpatialDims, conv
from diffmedseg.models.recommended import DIRECT
from diffmedseg.models.sizes import SIZES, Size, TrunkSize
from diffmedseg.models.supervised.smp import (
    ENCODER_DEPTH,
    DecoderWidth,
    build_network,
    decoder_widths,
    normalisation_of,
)


@dataclass(frozen=True)
class ImageMaps:
    """The maps of a network for a batch of images.

    Attributes:
        deepest: (B, ``deepest_channels``, h, w): the coarsest map.
        decoded: (B, ``decoded_channels``, H, W), or coarser in some architectures: the map before the head.
        prior: Logits of the mask, (B, K, H, W).
    """

    deepest: Tensor
    decoded: Tensor
    prior: Tensor


class DirectNetwork(Denoiser):
    """A network without noise or time. Its output depends on the image alone."""

    title = "Supervised baseline"
    has_prior = True
    recommended = DIRECT
    deepest_channels: int
    decoded_channels: int
    #: Mean and standard deviation that normalise images in [0, 1] for a pretrained encoder. None if the encoder takes
    #: images in [-1, 1].
    encoder_mean: list[float] | None = None
    encoder_std: list[float] | None = None
    #: Channels of the decoder's stages; None for the usual channels.
    decoder_channels: list[int] | None = None

    @property
    def settled(self) -> dict[str, Any]:
        """The final values of the arguments of encoder and decoder, for the config."""
        return {name: getattr(self, name) for name in ("encoder_mean", "encoder_std", "decoder_channels")}

    @abstractmethod
    def maps(self, image: Tensor) -> ImageMaps:
        """Segment images (B, C, H, W) in [-1, 1], and return the intermediate maps, too."""

    def encode(self, image: Tensor) -> Condition:
        """Segment the image; see the base class."""
        return Condition((), self.maps(image).prior)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Return the prior of the condition; x_t and t have no effect."""
        if condition.prior is None:
            raise ValueError(f"{type(self).__name__}.encode returned no prior; a direct network needs a prior.")
        return condition.prior


class ResidualUNet(DirectNetwork):
    """The trunk of MedSegDiff-V1, trained directly: image encoder, bottleneck and decoder, without x_t and time.

    Args:
        image_channels: C.
        mask_channels: K.
        size: A row of MedSegDiff-V1's ``SIZES``: the same widths and depth.
        dropout: Dropout of the residual blocks.
        spatial_dims: 2 for images; 3 for volumes, with the same widths.
    """

    title = "Supervised baseline (the trunk of MedSegDiff trained directly)"

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        size: TrunkSize = "base",
        dropout: float = 0.0,
        spatial_dims: SpatialDims = 2,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        spec = SIZES[size]
        self.divisor, self.spatial_dims = spec.divisor, spatial_dims
        self.stem = conv(spatial_dims, image_channels, spec.widths[0], 3, padding=1)
        self.stages = spec.stages(0, dropout, spatial_dims)
        self.down = spec.downsamplings(spatial_dims)
        self.bottleneck = spec.bottleneck(0, dropout, spatial_dims)
        self.decoder = spec.decoder(mask_channels, 0, dropout, spatial_dims)
        self.deepest_channels, self.decoded_channels = spec.deepest, spec.widths[0]

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the stem and the head; see the base class."""
        return {"stem": ChannelAxis("channels"), "decoder.head.2": ChannelAxis("regions", "output")}

    def maps(self, image: Tensor) -> ImageMaps:
        """Segment; see the base class."""
        self.check_image(image)
        skips = self.image_maps(image)
        deepest = self.bottleneck(skips[-1])
        decoded = self.decoder.finest(deepest, skips)
        return ImageMaps(deepest, decoded, self.decoder.head(decoded))

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the encoder, from fine to coarse; see the base class."""
        m, maps = self.stem(image), []
        for level, stage in enumerate(self.stages):
            m = stage(m if level == 0 else self.down[level - 1](m))
            maps.append(m)
        return tuple(maps)


class SMPNetwork(DirectNetwork):
    """A network of segmentation-models-pytorch.

    Args:
        image_channels: C.
        mask_channels: K.
        architecture: Name of the architecture in segmentation-models-pytorch, such as ``unet``, ``unetplusplus``,
            ``fpn``, ``segformer``.
        encoder: Name of the encoder: ``lite0``, ``lite1`` or ``lite2`` (EfficientNet-Lite), a name of
            segmentation-models-pytorch such as ``resnet34``, or a name of timm.
        encoder_weights: ``imagenet`` loads pretrained weights: for ``lite0`` to ``lite2`` from an installed package,
            for other encoders from the hub, which needs an Internet connection. The name of a file loads a state dict
            of the encoder (safetensors, or written by ``torch.save``). None for random weights. Weights for three
            channels are fitted to other numbers of channels.
        encoder_mean: Mean of the encoder's training images, with values in [0, 1]: a number for each channel, or one
            number for all channels. None for the mean that belongs to the pretrained weights. Images with other than
            three channels take the mean over the colours.
        encoder_std: Standard deviation of these images, in the same form. Without weights and numbers, the encoder sees
            images in [-1, 1].
        encoder_frozen_norm: Whether the encoder's BatchNorm layers keep their statistics, scales and shifts while
            the rest is trained.
        decoder_channels: Channels of the decoder's stages, one number for each level of the encoder, from coarse to
            fine, or ``slim`` for the numbers in ``DECODERS``. None for the architecture's own numbers. The stored
            config has the numbers.
        encoder_depth: Number of times that the encoder halves the image, 3 to 5. Smaller depths leave out the later
            blocks of an EfficientNet: at 4, ``lite0`` has 0.7 of its 3 million parameters.

    Raises:
        ValueError: If there is no such architecture, encoder, package or file, if the weights belong to another
            encoder, or if the decoder cannot have these channels.
    """

    title = "Supervised baseline (segmentation-models-pytorch)"

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        architecture: str = "unet",
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
        encoder_mean: Sequence[float] | None = None,
        encoder_std: Sequence[float] | None = None,
        encoder_frozen_norm: bool = False,
        decoder_channels: DecoderWidth | Sequence[int] | None = None,
        encoder_depth: int = ENCODER_DEPTH,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        self.divisor = 2**encoder_depth
        self.decoder_channels = decoder_widths(architecture, decoder_channels, encoder_depth)
        name, weights = encoder_name(encoder), find_weights(encoder, encoder_weights)
        self.network = build_network(
            architecture, name, weights, image_channels, mask_channels, self.decoder_channels, encoder_depth
        )
        self._pretrained_kernels = None if weights == EncoderWeights() else self._first_kernels().clone()
        if not isinstance(self.network.segmentation_head, nn.Sequential):
            raise ValueError(f"{architecture} gives no map before its mask: use another architecture, such as unet.")
        self.deepest_channels = self.network.encoder.out_channels[-1]
        self.decoded_channels = int(self.network.segmentation_head[0].in_channels)  # type: ignore[arg-type]  # a number
        self.normalise: nn.Module = nn.Identity()
        if normalisation := normalisation_of(name, weights, encoder_mean, encoder_std):
            normalisation = normalisation.fit(image_channels)
            self.normalise = Normalise(normalisation)
            self.encoder_mean, self.encoder_std = list(normalisation.mean), list(normalisation.std)
        self.frozen_norm = encoder_frozen_norm
        if encoder_frozen_norm:
            norms = batch_norms(self.network.encoder)
            if not norms:
                raise ValueError(f"The encoder {encoder} has no BatchNorm layers: set encoder_frozen_norm to false.")
            for norm in norms:
                norm.requires_grad_(False)
        self.train()
        self._settle(**self.settled)

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; frozen BatchNorm layers always keep their statistics."""
        super().train(mode)
        if self.frozen_norm:
            for norm in batch_norms(self.network.encoder):
                norm.eval()
        return self

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters; see the base class."""
        return list(self.network.encoder.parameters())

    @torch.no_grad()
    def share_between_slices(self, modalities: int) -> None:
        """Give each modality one kernel for all slices; see the base class."""
        kernels = self._first_kernels()
        if self._pretrained_kernels is not None and torch.equal(kernels, self._pretrained_kernels):
            kernels.copy_(share_kernels(kernels, modalities))

    def _first_kernels(self) -> Tensor:
        kernels: Tensor = self.network.encoder.get_parameter(f"{first_convolution(self.network.encoder)}.weight")
        return kernels.detach()

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the encoder's first convolution and the head; see the base class."""
        return {
            f"network.encoder.{first_convolution(self.network.encoder)}": ChannelAxis("channels"),
            "network.segmentation_head.0": ChannelAxis("regions", "output"),
        }

    def maps(self, image: Tensor) -> ImageMaps:
        """Segment; see the base class."""
        self.check_image(image)
        features = self._features(image)
        decoded = self.network.decoder(features)
        return ImageMaps(features[-1], decoded, self.network.segmentation_head(decoded))

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the encoder, from fine to coarse; see the base class."""
        return tuple(self._features(image)[1:])  # the first is the image

    def _features(self, image: Tensor) -> list[Tensor]:
        """Return the image and the encoder's maps, in channels-last format, which makes convolutions faster."""
        image = self.normalise(image).contiguous(memory_format=torch.channels_last)
        features: list[Tensor] = self.network.encoder(image)
        return features


def condition_network(
    image_channels: int,
    mask_channels: int,
    size: Size,
    dropout: float,
    encoder: str | None,
    encoder_weights: str | None,
    encoder_mean: Sequence[float] | None,
    encoder_std: Sequence[float] | None,
    encoder_frozen_norm: bool,
    decoder_channels: DecoderWidth | Sequence[int] | None,
    encoder_depth: int,
    spatial_dims: SpatialDims = 2,
) -> DirectNetwork:
    """Make the condition network of another network.

    Args:
        image_channels: C.
        mask_channels: K.
        size: Size of our own network.
        dropout: Dropout of our own network.
        encoder: Name of an encoder, for a U-Net with this encoder; None for our own network. For this and the next six
            arguments, see :class:`SMPNetwork`.
        encoder_weights: Weights of the encoder.
        encoder_mean: Mean of the encoder's training images.
        encoder_std: Standard deviation of these images.
        encoder_frozen_norm: Whether the encoder's BatchNorm layers are frozen.
        decoder_channels: Channels of the U-Net decoder's stages.
        encoder_depth: Number of times that the encoder halves the image.
        spatial_dims: Spatial dimensions of our own network.
    """
    if encoder is None or is_none(encoder):
        if encoder_frozen_norm:
            raise ValueError("encoder_frozen_norm needs an encoder: our own network has no BatchNorm layers.")
        if decoder_channels is not None:
            raise ValueError("decoder_channels needs an encoder: the width of our own network is its size.")
        if encoder_depth != ENCODER_DEPTH:
            raise ValueError("encoder_depth needs an encoder: the depth of our own network is that of its size.")
        return ResidualUNet(image_channels, mask_channels, size, dropout, spatial_dims)
    if spatial_dims != 2:
        raise ValueError(f"The encoder {encoder} takes images; a network of volumes has none: leave the encoder out.")
    return SMPNetwork(
        image_channels,
        mask_channels,
        "unet",
        encoder,
        encoder_weights,
        encoder_mean,
        encoder_std,
        encoder_frozen_norm,
        decoder_channels,
        encoder_depth,
    )
