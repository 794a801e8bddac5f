"""The networks of DiffSeg, which denoise images given a label: diffusers' U-Net.

In the paper's figure, the network also gets the clean image. But then the two inputs determine the noise, the label
adds no information, and the two labels give the same result. So these networks see only x_t and the label, as in the
released code.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffmedseg.models.denoiser import ChannelAxis, Condition, Denoiser, nested_axes
from diffmedseg.models.recommended import IMAGES

Size = Literal["tiny", "base", "released"]

HEALTHY, DISEASED, NO_LABEL = 0, 1, 2


@dataclass(frozen=True)
class SizeSpec:
    """Width and depth of the network.

    Attributes:
        widths: Channels per level, from fine to coarse.
        blocks: Residual blocks per level.
        groups: Groups of the group normalisation.
        head_channels: Channels per attention head. Only the coarsest level has attention.
    """

    widths: tuple[int, ...]
    blocks: int
    groups: int
    head_channels: int


SIZES: dict[Size, SizeSpec] = {
    "tiny": SizeSpec((16, 32, 64, 96), 1, 8, 48),
    "base": SizeSpec((64, 96, 128, 128), 1, 32, 32),
    # The released code, UnetModel.py: 96 channels, multipliers (1, 2, 2), two blocks, four heads in the middle.
    "released": SizeSpec((96, 192, 192), 2, 32, 48),
}


def _unet(channels: int, spec: SizeSpec, labels: int | None) -> nn.Module:
    from diffusers import UNet2DModel

    levels = len(spec.widths)
    network: nn.Module = UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        block_out_channels=spec.widths,
        layers_per_block=spec.blocks,
        norm_num_groups=spec.groups,
        attention_head_dim=spec.head_channels,
        num_class_embeds=labels,
    )
    return network


#: Axes of diffusers' U-Net that depend on the image channels.
_AXES = {"conv_in": ChannelAxis("channels"), "conv_out": ChannelAxis("channels", "output")}


class ImageDenoiser(Denoiser):
    """A network that denoises images.

    Attributes:
        knows_no_label: Whether the network can predict without a label.
    """

    title = "DiffSeg (Shuai et al. 2024)"
    papers = ("Shuai et al. 2024: DiffSeg (diffusion difference), arXiv 2404.16474",)
    knows_no_label = True
    recommended = IMAGES

    @property
    def x_channels(self) -> int:
        """Channels of the image."""
        return self.image_channels

    def encode(self, image: Tensor) -> Condition:
        """Return an empty condition, because the network denoises the image itself."""
        self.check_image(image)
        return Condition(())

    @abstractmethod
    def first_convolution(self) -> nn.Module:
        """Return the convolution that takes the image."""

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the map of the first convolution; see the base class.

        Later maps of an image without noise distinguish textures from images less well
        (docs/results/unfamiliar-images.md).
        """
        self.check_image(image)
        return (self.first_convolution()(image),)


class ClassConditionalUNet(ImageDenoiser):
    """One network, conditioned on the label: healthy, diseased, or none.

    Args:
        image_channels: C, channels of the image, which the network denoises.
        mask_channels: K, regions of the mask; they have no effect on the network.
        size: ``tiny``, ``base``, or ``released`` for the size in the released code.
    """

    def __init__(self, image_channels: int, mask_channels: int, size: Size = "tiny") -> None:
        super().__init__(image_channels, mask_channels)
        spec = SIZES[size]
        self.divisor = 2 ** (len(spec.widths) - 1)
        self.unet = _unet(image_channels, spec, labels=3)

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the first and the last convolution; see the base class."""
        return nested_axes("unet", _AXES)

    def first_convolution(self) -> nn.Module:
        """Return the first convolution; see the base class."""
        return self.unet.get_submodule("conv_in")

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict for noisy images (B, C, H, W) and their ``label`` (B,); None for no label."""
        label = torch.full_like(t, NO_LABEL) if label is None else label
        output: Tensor = self.unet(x_t, t, class_labels=label).sample
        return output


class TwoTowerUNet(ImageDenoiser):
    """Two networks, one per label. The released code trains two such networks one after the other.

    Args:
        image_channels: C, channels of the image, which the networks denoise.
        mask_channels: K, regions of the mask; they have no effect on the networks.
        size: Size of each network.
    """

    knows_no_label = False

    def __init__(self, image_channels: int, mask_channels: int, size: Size = "tiny") -> None:
        super().__init__(image_channels, mask_channels)
        spec = SIZES[size]
        self.divisor = 2 ** (len(spec.widths) - 1)
        self.towers = nn.ModuleList(_unet(image_channels, spec, labels=None) for _ in (HEALTHY, DISEASED))

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the first and the last convolution of each network; see the base class."""
        return nested_axes("towers.0", _AXES) | nested_axes("towers.1", _AXES)

    def first_convolution(self) -> nn.Module:
        """Return the first convolution of the network of healthy images; see the base class."""
        return self.towers[HEALTHY].get_submodule("conv_in")

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict for noisy images (B, C, H, W), each with the network of its ``label`` (B,).

        Raises:
            ValueError: If labels are missing, or a label is neither healthy nor diseased.
        """
        if label is None or label.max() > DISEASED:
            raise ValueError(
                "Two networks, one for each label, cannot learn from images without a label. Set label_dropout to 0."
            )
        output = x_t.new_zeros(x_t.shape)
        for value, tower in enumerate(self.towers):
            rows = (label == value).nonzero()[:, 0]
            if len(rows):
                output = output.index_add(0, rows, tower(x_t[rows], t[rows]).sample.to(output))
            else:  # under DDP every process has to use every parameter
                output = output + 0 * torch.stack([parameter.sum() for parameter in tower.parameters()]).sum()
        return output
