"""Networks of the control: they give the mask directly, as the condition's own ``prior``."""

import re

from torch import Tensor, nn

from diffmedseg.models.denoiser import Condition, Denoiser
from diffmedseg.models.layers import Bottleneck, Stage, UNetDecoder, downsample
from diffmedseg.models.medsegdiff.denoiser_v1 import SIZES, Size


class DirectNetwork(Denoiser):
    """A network without noise or time: all depends on the image alone."""

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

    def encode(self, image: Tensor) -> Condition:
        """Segment the image; see the base class."""
        self.check_image(image)
        m, skips = self.stem(image), []
        for level, stage in enumerate(self.stages):
            m = stage(m if level == 0 else self.down[level - 1](m))
            skips.append(m)
        return Condition(tuple(skips), self.decoder(self.bottleneck(m), skips))


class SMPNetwork(DirectNetwork):
    """A network of segmentation-models-pytorch.

    Args:
        image_channels: C.
        mask_channels: K.
        architecture: Its name there, such as ``unet``, ``unetplusplus``, ``fpn``, ``segformer``.
        encoder: Name of its encoder, such as ``resnet34``, ``mit_b2`` or ``tu-<timm name>``.
        encoder_weights: ``imagenet`` loads weights from the hub, which needs a network; None starts at random.

    Raises:
        ValueError: If there is no such architecture or encoder.
    """

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

        try:
            self.network: nn.Module = smp.create_model(
                architecture,
                encoder,
                encoder_weights=encoder_weights,
                in_channels=image_channels,
                classes=mask_channels,
            )
        except KeyError as error:  # its message lists the architectures, or the encoders, there are
            raise ValueError(
                f"segmentation-models-pytorch cannot build {architecture} on {encoder}: {error}"
            ) from error

    def encode(self, image: Tensor) -> Condition:
        """Segment the image; see the base class."""
        self.check_image(image)
        logits: Tensor = self.network(image)
        return Condition((), logits)
