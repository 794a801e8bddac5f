"""The interface of networks to segmenters. Networks depend on torch alone, and segmenters on Lightning."""

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
    """The part of a prediction that depends on the image alone. All steps of all samples share it.

    Attributes:
        features: Feature maps of the image, each (B, C_i, H_i, W_i).
        prior: Logits of the condition network's own mask, (B, K, H, W), or (B * S, K, H, W) for a mask per sample with
            ``normal``. None if the network has no mask of its own.
        normal: Distribution of the network's own masks, with the mean ``prior``. None if it has no distribution.
        presence: Logits (B, K), float32, of the probability that a rater outlines each region. ``prior`` and ``normal``
            then describe the masks of raters who outline the region. None if the network does not predict presence.
    """

    features: tuple[Tensor, ...]
    prior: Tensor | None = None
    normal: LowRankNormal | None = None
    presence: Tensor | None = None


register_dataclass(Condition)  # torch.export takes and returns conditions


@dataclass(frozen=True)
class ChannelAxis:
    """The axis of a convolution that has one or more channels for each image channel or region.

    Fine-tuning uses it to fit weights to other image channels or regions.

    Attributes:
        of: Meaning of the convolution's channels: ``channels`` of the image or ``regions`` of the mask.
        side: Whether these are the input or the output channels of the convolution.
        each: Number of adjacent channels per image channel or region.
        offset: Number of other channels before these.
    """

    of: Literal["channels", "regions"]
    side: Literal["input", "output"] = "input"
    each: int = 1
    offset: int = 0


class Denoiser(Configurable, nn.Module, ABC):
    """A network that predicts x_0, v or epsilon of a noisy mask, given an image.

    Each denoiser takes ``image_channels`` and ``mask_channels``; the command line takes both from the data set. Height
    and width of images may be any multiples of ``divisor``.

    Args:
        image_channels: C, channels of the image.
        mask_channels: K, regions of the mask.
    """

    #: Name of the network and its paper, for people.
    title: str = ""
    #: Papers that describe the method, for citations.
    papers: tuple[str, ...] = ()
    #: Defaults of a segmenter with this network.
    recommended: Recommended = Recommended()
    divisor: int = 1
    #: 2 for networks of images (B, C, H, W); 3 for networks of volumes (B, C, D, H, W). Documentation of images also
    #: holds for volumes.
    spatial_dims: SpatialDims = 2
    #: Whether the condition has a prior, the network's own mask.
    has_prior: bool = False

    def __init__(self, image_channels: int, mask_channels: int) -> None:
        super().__init__()
        if image_channels < 1 or mask_channels < 1:
            raise ValueError(
                f"image_channels is {image_channels} and mask_channels {mask_channels}; both have to be at least 1."
            )
        self.image_channels, self.mask_channels = image_channels, mask_channels

    @property
    def x_channels(self) -> int:
        """Number of channels of x_t: the regions of the mask, unless a subclass diffuses something else."""
        return self.mask_channels

    @abstractmethod
    def encode(self, image: Tensor) -> Condition:
        """Compute the condition of images.

        Args:
            image: (B, C, H, W), in [-1, 1].
        """

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps (B, C_i, H_i, W_i) of images (B, C, H, W), for their familiarity.

        The maps depend on each image alone. Without maps, images have no familiarity.
        """
        return self.encode(image).features

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict x_0, v or epsilon for S samples of each of B images.

        Args:
            x_t: (B * S, x_channels, H, W), image-major: the samples of an image stand together.
            t: (B * S,), int64, in [0, T).
            condition: The condition of the B images, from :meth:`encode`.
            label: (B * S,), int64, for denoisers with image-level labels.

        Returns:
            (B * S, x_channels, H, W): the quantity that ``prediction`` of the noise process names.
        """

    def channel_axes(self) -> Mapping[str, ChannelAxis]:
        """Return the convolutions that depend on the number of image channels or regions, by name.

        If these numbers change, fine-tuning keeps the new initialisation of all other weights that do not fit.
        """
        return {}

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder that may be pretrained; empty without an encoder."""
        return []

    def share_between_slices(self, modalities: int) -> None:
        """Fit new, pretrained weights to images of several slices; weights that changed since then stay.

        Args:
            modalities: Number of image channels of one slice.
        """
        for part in self.children():
            if isinstance(part, Denoiser):
                part.share_between_slices(modalities)

    def place_of(self, source: "Denoiser") -> str:
        """Return the prefix that turns names of another network's weights into names of this network, for fine-tuning.

        Args:
            source: The network with the weights: of the same class, or of the class of a part of this network.
        """
        return ""

    def check_image(self, image: Tensor) -> None:
        """Check that the network can take an image.

        Raises:
            ValueError: If the number of channels or the size does not fit; the message says what fits. Also if the
                weights have half precision, which rounds the lowest noise levels to zero.
        """
        halves = {p.dtype for p in self.parameters()} & {torch.float16, torch.bfloat16}
        if halves:
            raise ValueError(
                f"The weights are {', '.join(map(str, halves))}; they have to stay float32. For speed, "
                "use --trainer.precision bf16-mixed; in Python, use torch.autocast around segment()."
            )
        channels, *sides = image.shape[1:]
        if channels != self.image_channels:
            raise ValueError(f"The image has {channels} channels; this network was built for {self.image_channels}.")
        if len(sides) != self.spatial_dims:
            raise ValueError(f"The image has {len(sides)} dimensions; this network was built for {self.spatial_dims}.")
        if any(side % self.divisor for side in sides):
            actual, fitting = (
                " x ".join(map(str, shape)) for shape in (sides, [-(-s // self.divisor) * self.divisor for s in sides])
            )
            raise ValueError(
                f"The image is {actual}; all sides have to be divisible by {self.divisor}: resize or pad it to "
                f"{fitting}."
            )


def nested_axes(prefix: str, axes: Mapping[str, ChannelAxis]) -> dict[str, ChannelAxis]:
    """Return the axes of a network that is a submodule named ``prefix`` of another network."""
    return {f"{prefix}.{name}": axis for name, axis in axes.items()}


def repeat_for_samples(feature: Tensor, rows: int) -> Tensor:
    """Repeat (B, ...) features image-major to (rows, ...), for ``rows`` = B * S."""
    # No len() and no condition on sizes: torch.export would make the number of rows a constant.
    return feature[:, None].expand(-1, rows // feature.shape[0], *feature.shape[1:]).flatten(0, 1)
