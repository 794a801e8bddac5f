"""The contract between networks, which know only torch, and segmenters, which know Lightning."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import register_dataclass

from diffmedseg.configurable import Configurable
from diffmedseg.models.layers import SpatialDims
from diffmedseg.models.low_rank_normal import LowRankNormal
from diffmedseg.models.recommended import Recommended


@dataclass(frozen=True)
class Condition:
    """All that depends on the image alone: computed once per image, used by every step of every sample.

    Attributes:
        features: Feature maps of the image, each (B, C_i, H_i, W_i).
        prior: The condition network's own mask as logits (B, K, H, W), where it has one; with ``normal`` it may be
            (B * S, K, H, W), one for each sample.
        normal: The distribution of such masks, whose mean is ``prior``, where it has one.
        presence: Logits (B, K), float32, of whether a rater outlines anything in each region, where it tells. All masks
            are then those of raters who do.
    """

    features: tuple[Tensor, ...]
    prior: Tensor | None = None
    normal: LowRankNormal | None = None
    presence: Tensor | None = None


register_dataclass(Condition)  # torch.export takes and returns conditions


@dataclass(frozen=True)
class ChannelAxis:
    """Where a convolution has one or more channels for each image channel or each region.

    Fine-tuning reads it to fit the weights to other image channels or regions.

    Attributes:
        of: What the convolution's channels stand for: ``channels`` of the image or ``regions`` of the mask.
        side: Whether these are its input channels or its output channels.
        each: Number of channels per image channel or region; those of one image channel or region are adjacent.
        offset: Number of other channels before them.
    """

    of: Literal["channels", "regions"]
    side: Literal["input", "output"] = "input"
    each: int = 1
    offset: int = 0


class Denoiser(Configurable, nn.Module, ABC):
    """A network that predicts x_0, v or epsilon of a noisy mask, given an image.

    Every concrete denoiser takes ``image_channels`` and ``mask_channels``, which the command line fills in from the
    data set, and works at every height and width divisible by ``divisor``.

    Args:
        image_channels: C, channels of the image.
        mask_channels: K, regions of the mask.
    """

    #: What people call it, with its paper.
    title: str = ""
    #: What describes its method, for whoever cites a model.
    papers: tuple[str, ...] = ()
    #: What segmenters take for it where they are told nothing.
    recommended: Recommended = Recommended()
    divisor: int = 1
    #: 2 for networks of images (B, C, H, W); 3 for networks of volumes (B, C, D, H, W), of which all that is said of
    #: images holds.
    spatial_dims: SpatialDims = 2
    #: Whether the condition comes with a mask of its own.
    has_prior: bool = False

    def __init__(self, image_channels: int, mask_channels: int) -> None:
        super().__init__()
        if image_channels < 1 or mask_channels < 1:
            raise ValueError(
                f"image_channels {image_channels} and mask_channels {mask_channels} have to be at least 1."
            )
        self.image_channels, self.mask_channels = image_channels, mask_channels

    @property
    def x_channels(self) -> int:
        """Channels of x_t: of the mask, which is what is diffused, unless a network says otherwise."""
        return self.mask_channels

    @abstractmethod
    def encode(self, image: Tensor) -> Condition:
        """Compute what depends on the image alone.

        Args:
            image: (B, C, H, W), in [-1, 1].
        """

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps of images (B, C, H, W), each (B, C_i, H_i, W_i), to tell unfamiliar images by.

        The maps depend on each image alone. Without any, images have no familiarity.
        """
        return self.encode(image).features

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict, for S samples of each of B images.

        Args:
            x_t: (B * S, x_channels, H, W), image-major: the samples of an image stand together.
            t: (B * S,), int64, in [0, T).
            condition: What :meth:`encode` returned for the B images.
            label: (B * S,), int64, for denoisers with image-level labels.

        Returns:
            (B * S, x_channels, H, W): what the noise process's ``prediction`` says.
        """

    def channel_axes(self) -> Mapping[str, ChannelAxis]:
        """Return the convolutions, by name, that depend on the number of image channels or regions.

        Without them fine-tuning leaves such weights as they are initialised where these numbers change.
        """
        return {}

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder that may have pretrained weights; empty where there is none."""
        return []

    def place_of(self, source: "Denoiser") -> str:
        """Return the prefix of the names that the weights of another network have in this one, for fine-tuning.

        Args:
            source: The network whose weights are taken: one of the same kind, or one that is a part of this.
        """
        return ""

    def check_image(self, image: Tensor) -> None:
        """Refuse an image that the network cannot take, saying what would fit.

        Raises:
            ValueError: If the number of channels or the size does not fit, or the weights are of half precision, which
                cannot tell the lowest noise levels from none.
        """
        halves = {p.dtype for p in self.parameters()} & {torch.float16, torch.bfloat16}
        if halves:
            raise ValueError(
                f"The weights are {', '.join(map(str, halves))}; they have to stay float32. For speed: "
                "--trainer.precision bf16-mixed, in Python torch.autocast around segment()."
            )
        channels, *sides = image.shape[1:]
        if channels != self.image_channels:
            raise ValueError(f"The image has {channels} channels; this network was built for {self.image_channels}.")
        if len(sides) != self.spatial_dims:
            raise ValueError(f"The image has {len(sides)} dimensions; this network was built for {self.spatial_dims}.")
        if any(side % self.divisor for side in sides):
            found, fit = (
                " x ".join(map(str, shape)) for shape in (sides, [-(-s // self.divisor) * self.divisor for s in sides])
            )
            raise ValueError(
                f"The image is {found}; all sides have to be divisible by {self.divisor}: resize or pad it to {fit}."
            )


def nested_axes(prefix: str, axes: Mapping[str, ChannelAxis]) -> dict[str, ChannelAxis]:
    """Return the axes of a network that is part of another under the name ``prefix``."""
    return {f"{prefix}.{name}": axis for name, axis in axes.items()}


def repeat_for_samples(feature: Tensor, rows: int) -> Tensor:
    """Repeat (B, ...) features image-major to (rows, ...), for ``rows`` = B * S."""
    # No length and no condition on one: torch.export would take the number of rows for a constant.
    return feature[:, None].expand(-1, rows // feature.shape[0], *feature.shape[1:]).flatten(0, 1)
