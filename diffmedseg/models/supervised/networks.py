"""Networks that give the mask directly, as the condition's own ``prior``.

By themselves they are the control; within MedSegDiff-V2 and -lite they are the condition network, so that the two are
the same network where they are compared.
"""

import re
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffmedseg.models.denoiser import ChannelAxis, Condition, Denoiser
from diffmedseg.models.layers import Bottleneck, Stage, UNetDecoder, downsample
from diffmedseg.models.medsegdiff.denoiser_v1 import SIZES, Size
from diffmedseg.models.recommended import DIRECT

#: What tells a file of weights from the name of some on the hub.
_FILE = re.compile(r"[/\\]|\.(safetensors|pth|pt|bin|ckpt)$")


@dataclass(frozen=True)
class ImageMaps:
    """What a network makes of images.

    Attributes:
        deepest: (B, ``deepest_channels``, h, w): the coarsest.
        decoded: (B, ``decoded_channels``, H, W), or coarser in some architectures: what the prior is read from.
        prior: Logits of the mask, (B, K, H, W).
    """

    deepest: Tensor
    decoded: Tensor
    prior: Tensor


class DirectNetwork(Denoiser):
    """A network without noise or time: all depends on the image alone."""

    title = "Supervised baseline"
    has_prior = True
    recommended = DIRECT
    deepest_channels: int
    decoded_channels: int

    @abstractmethod
    def maps(self, image: Tensor) -> ImageMaps:
        """Segment images (B, C, H, W) in [-1, 1], and keep the maps on the way."""

    def encode(self, image: Tensor) -> Condition:
        """Segment the image; see the base class."""
        return Condition((), self.maps(image).prior)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Return the prior of the condition; x_t and t change nothing."""
        if condition.prior is None:
            raise ValueError(f"{type(self).__name__}.encode gave no prior; a direct network has to.")
        return condition.prior


class ResidualUNet(DirectNetwork):
    """The trunk of MedSegDiff-V1 trained directly: its image encoder, bottleneck and decoder, without x_t and time.

    Args:
        image_channels: C.
        mask_channels: K.
        size: A row of MedSegDiff-V1's ``SIZES``: the same widths and depth.
        dropout: Dropout of the residual blocks.
    """

    title = "Supervised baseline (the trunk of MedSegDiff trained directly)"

    def __init__(self, image_channels: int, mask_channels: int, size: Size = "base", dropout: float = 0.0) -> None:
        super().__init__(image_channels, mask_channels)
        widths, blocks = SIZES[size].widths, SIZES[size].blocks
        self.divisor = 2 ** (len(widths) - 1)
        self.stem = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        before = (widths[0], *widths[:-1])
        self.stages = nn.ModuleList(Stage(a, b, blocks, 0, dropout) for a, b in zip(before, widths, strict=True))
        self.down = nn.ModuleList(downsample(width) for width in widths[:-1])
        self.bottleneck = Bottleneck(widths[-1], 0, dropout)
        self.decoder = UNetDecoder(widths, mask_channels, blocks, 0, dropout)
        self.deepest_channels, self.decoded_channels = widths[-1], widths[0]

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
        architecture: Its name there, such as ``unet``, ``unetplusplus``, ``fpn``, ``segformer``.
        encoder: Name of its encoder, such as ``resnet34``, ``mit_b2`` or ``tu-<timm name>``.
        encoder_weights: ``imagenet`` loads weights from the hub, which needs a network; a file's name loads a state
            dict of the encoder (safetensors, or of ``torch.save``); None starts at random. Weights for three channels
            are spread over others.

    Raises:
        ValueError: If there is no such architecture, encoder or file, or if the weights are not of this encoder.
    """

    title = "Supervised baseline (segmentation-models-pytorch)"
    divisor = 32

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        architecture: str = "unet",
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        import segmentation_models_pytorch as smp

        if not re.fullmatch(r"[\w.-]+", encoder):
            raise ValueError(f"{encoder!r} is not a name of an encoder: names that point to a hub are not taken.")

        file = Path(encoder_weights) if encoder_weights and Path(encoder_weights).is_file() else None
        if encoder_weights and not file and _FILE.search(encoder_weights):
            raise ValueError(
                f"There is no file {encoder_weights} with weights of {encoder}: give another, imagenet, or none."
            )
        try:
            network = smp.create_model(
                architecture,
                encoder,
                encoder_weights=None if file else encoder_weights,
                in_channels=image_channels,
                classes=mask_channels,
            )
        except KeyError as error:  # its message lists the architectures, or the encoders, there are
            raise ValueError(
                f"segmentation-models-pytorch cannot build {architecture} on {encoder}: {error}"
            ) from error
        if file:
            _load_encoder(network.encoder, encoder, file)
        _freeze_what_no_map_needs(network.encoder)
        self.network: smp.base.SegmentationModel = network
        if not isinstance(network.segmentation_head, nn.Sequential):
            raise ValueError(f"{architecture} gives no map before its mask: use another architecture, such as unet.")
        self.deepest_channels = network.encoder.out_channels[-1]
        self.decoded_channels = int(network.segmentation_head[0].in_channels)  # type: ignore[arg-type]  # a number

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the encoder's first convolution and the head; see the base class."""
        return {
            f"network.encoder.{_first_convolution(self.network.encoder)}": ChannelAxis("channels"),
            "network.segmentation_head.0": ChannelAxis("regions", "output"),
        }

    def maps(self, image: Tensor) -> ImageMaps:
        """Segment; see the base class."""
        self.check_image(image)
        features = self.network.encoder(image)
        decoded = self.network.decoder(features)
        return ImageMaps(features[-1], decoded, self.network.segmentation_head(decoded))

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the encoder, from fine to coarse; see the base class."""
        return tuple(self.network.encoder(image)[1:])  # the first is the image


def _first_convolution(encoder: nn.Module) -> str:
    """Return the name of the convolution that takes the image."""
    return next(str(name) for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))


def _load_encoder(encoder: nn.Module, name: str, file: Path) -> None:
    """Load an encoder's weights from a file."""
    import segmentation_models_pytorch as smp
    from safetensors.torch import load_file

    stem = f"{_first_convolution(encoder)}.weight"
    own = encoder.state_dict()[stem].shape[1]
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        if stem in state and state[stem].shape[1] == 3 != own:
            of_colours = smp.encoders.get_encoder(name)
            of_colours.load_state_dict(state)
            of_colours.set_in_channels(own)
            state = of_colours.state_dict()
        encoder.load_state_dict(state)
    except Exception as error:  # a file can be anything
        raise ValueError(f"{file} does not hold the weights of this encoder: {error}") from error


def _freeze_what_no_map_needs(encoder: nn.Module) -> None:
    """Freeze the layers of EfficientNets beyond their last map: with DDP, all that learns has to have a gradient."""
    for first, second in (("_conv_head", "_bn1"), ("conv_head", "bn2")):  # two implementations
        if hasattr(encoder, first):
            getattr(encoder, first).requires_grad_(False)
            getattr(encoder, second).requires_grad_(False)


def condition_network(
    image_channels: int,
    mask_channels: int,
    size: Size,
    encoder: str | None,
    encoder_weights: str | None,
    dropout: float,
) -> DirectNetwork:
    """Make the network that conditions others on an image.

    Args:
        image_channels: C.
        mask_channels: K.
        size: Of our own network.
        encoder: Name of an encoder of segmentation-models-pytorch, for a U-Net on it; None for our own network.
        encoder_weights: Its weights.
        dropout: Of our own network.
    """
    if encoder is None:
        return ResidualUNet(image_channels, mask_channels, size, dropout)
    return SMPNetwork(image_channels, mask_channels, "unet", encoder, encoder_weights)
