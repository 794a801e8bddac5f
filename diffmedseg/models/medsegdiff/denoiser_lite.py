"""MedSegDiff-Lite: a large network runs once per image, and a small network on a coarse grid at every step.

The network is our own. It follows MedSegDiff-V2's idea that all conditioning comes from a network on the image alone. A
mask is smooth except at its outline, so the step network works on patches of 4 x 4 pixels (space-to-depth, as in
Hoogeboom et al. 2023, arXiv 2301.11093, section 3.1). The condition network's own mask gives the outline. The step
network's output is added to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.errors import unknown
from diffmedseg.models.denoiser import ChannelAxis, Condition, Denoiser, nested_axes, repeat_for_samples
from diffmedseg.models.layers import (
    ResBlock,
    SpatialDims,
    TimeEmbedding,
    conv,
    downsample,
    group_norm,
    layer_norm,
    linear_mode,
    patches_to_channels,
    resize,
    zero_init,
)
from diffmedseg.models.medsegdiff.ff_parser import FFParser
from diffmedseg.models.presence import PresenceHead
from diffmedseg.models.recommended import Recommended
from diffmedseg.models.sizes import Size
from diffmedseg.models.ssn.network import RANK, Covariance
from diffmedseg.models.supervised.networks import condition_network
from diffmedseg.models.supervised.smp import ENCODER_DEPTH, DecoderWidth

#: How the patches of 4 x 4 pixels become a mask.
Patches = Literal["apart", "interpolated"]


@dataclass(frozen=True)
class LiteSpec:
    """Width and depth of the step network.

    Attributes:
        width: Channels at a quarter of the resolution.
        blocks: Residual blocks at a quarter of the resolution. One more, of the same width, is at an eighth.
    """

    width: int
    blocks: int


LITE_SIZES: dict[Size, LiteSpec] = {
    "tiny": LiteSpec(24, 2),
    "base": LiteSpec(48, 2),
    "paper": LiteSpec(128, 4),
}


class CoarseEncoding(nn.Module):
    """MedSegDiff's dynamic conditional encoding (eq. 3) and FF-Parser (eq. 4-6) on the coarse grid.

    There are two differences from :class:`~diffmedseg.models.medsegdiff.denoiser_v1.DynamicConditionalEncoding`. The
    part that depends on the image alone is computed once per image. And the result is added to the map of x_t, by a
    convolution that is zero at first.

    Args:
        channels: Channels of both maps.
        affinity: Whether to form the affinity product. If not, the image's map is added to the filtered map of x_t.
        ff_parser: Whether to filter the map of x_t.
    """

    def __init__(self, channels: int, affinity: bool, ff_parser: bool) -> None:
        super().__init__()
        self.affinity = affinity
        self.filter: nn.Module = FFParser(channels) if ff_parser else nn.Identity()
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def image_part(self, m_i: Tensor) -> Tensor:
        """Return the contribution of the image's map (B, C, H, W), with the same shape."""
        return layer_norm(m_i) * m_i if self.affinity else m_i

    def forward(self, image_part: Tensor, m_x: Tensor) -> Tensor:
        """Add the encoding to the map of x_t; all are (rows, C, H, W)."""
        filtered = self.filter(m_x)
        encoded = image_part * layer_norm(filtered) if self.affinity else image_part + filtered
        out: Tensor = m_x + self.out(encoded)
        return out


class MedSegDiffLite(Denoiser):
    """A condition network with its own mask, and a coarse network that denoises on top of this mask.

    Args:
        image_channels: C.
        mask_channels: K.
        size: A row of ``LITE_SIZES``, and of MedSegDiff-V1's ``SIZES`` for the condition network.
        residual: Whether the step network's output is added to the logits of the condition network's own mask. The
            logits then learn from their own loss alone.
        encoder: Name of an encoder such as ``lite0``. The condition network is then a U-Net with this encoder. None for
            our own network. For this and the next six arguments, see :class:`~diffmedseg.models.SMPNetwork`.
        encoder_weights: Weights of the encoder: ``imagenet``, a file, or None for random weights.
        encoder_mean: Mean of the encoder's training images; None for the mean that belongs to its weights.
        encoder_std: Standard deviation of these images.
        encoder_frozen_norm: Whether the encoder's BatchNorm layers are frozen.
        decoder_channels: Channels of the decoder's stages, or ``slim``; None for the usual channels.
        encoder_depth: Number of times that the encoder halves the image, 3 to 5.
        dropout: Dropout of the condition network's residual blocks.
        patches: How the patches of 4 x 4 pixels become a mask. ``apart``: each patch has its own pixels, and borders of
            patches show in samples. ``interpolated`` from one value per patch: finer details come from the condition
            network's own mask.
        ff_parser: Whether a filter in Fourier space acts on the coarse map of x_t, as in MedSegDiff-V1.
        dynamic_encoding: Whether to form the affinity product of the coarse maps of x_t and image, as in MedSegDiff-V1.
        prior: Mask to which the step network's output is added: the condition network's own mask (``mean``), or a
            sample of it for each chain (``samples``). For ``samples`` the condition network has the covariance of SSN.
        presence: Whether the condition network also predicts the probability that a rater outlines anything, for data
            with many empty masks. Samples are then present with this probability, and else empty. All other parts learn
            from masks that are not empty, so they never average a shape with an empty mask.
        condition_frozen: Whether the condition network keeps its weights while the rest is trained, for example the
            weights of a supervised baseline.
        spatial_dims: 2 for images. 3 for volumes: patches then have 4 x 4 x 4 voxels, and have to be ``interpolated``.
            A network for volumes has no encoder, FF-Parser, dynamic encoding, sampled prior or presence head.
    """

    title = "MedSegDiff-Lite (ours, after Wu et al. 2023)"
    papers = (
        "Wu et al. 2023: MedSegDiff-V2, arXiv 2301.11798",
        "Hoogeboom et al. 2023: simple diffusion, arXiv 2301.11093",
    )
    has_prior = True
    #: More noise levels per encoded image cost little. With half of the votes, the condition network's mask gives a
    #: better NLL than the samples alone. Four steps come as near to the raters as ten steps of DDIM.
    recommended = Recommended(num_steps=4, noise_levels=4, prior_share=0.5)
    patch = 4  # pixels

    def __init__(
        self,
        image_channels: int,
        mask_channels: int,
        size: Size = "tiny",
        residual: bool = True,
        encoder: str | None = None,
        encoder_weights: str | None = None,
        dropout: float = 0.0,
        encoder_mean: Sequence[float] | None = None,
        encoder_std: Sequence[float] | None = None,
        encoder_frozen_norm: bool = False,
        decoder_channels: DecoderWidth | Sequence[int] | None = None,
        patches: Patches = "apart",
        ff_parser: bool = False,
        dynamic_encoding: bool = False,
        prior: Literal["mean", "samples"] = "mean",
        presence: bool = False,
        encoder_depth: int = ENCODER_DEPTH,
        condition_frozen: bool = False,
        spatial_dims: SpatialDims = 2,
    ) -> None:
        super().__init__(image_channels, mask_channels)
        if patches not in get_args(Patches):
            raise ValueError(unknown("way of patches", patches, get_args(Patches)))
        if prior not in ("mean", "samples"):
            raise ValueError(unknown("prior", prior, ["mean", "samples"]))
        if prior == "samples" and not residual:
            raise ValueError("prior is samples and residual is false. Set residual to true, or prior to mean.")
        planar = patches != "interpolated" or ff_parser or dynamic_encoding or prior == "samples" or presence
        if spatial_dims == 3 and planar:
            raise ValueError(
                "A network of volumes interpolates its patches and has no further parts: set patches to interpolated "
                "and prior to mean, and leave ff_parser, dynamic_encoding and presence out."
            )
        spec, patch = LITE_SIZES[size], self.patch
        self.residual, self.spatial_dims = residual, spatial_dims
        self.condition = condition_network(
            image_channels, mask_channels, size, dropout,
            encoder, encoder_weights, encoder_mean, encoder_std, encoder_frozen_norm, decoder_channels,
            encoder_depth, spatial_dims,
        )  # fmt: skip
        self._settle(**self.condition.settled)
        self.condition_frozen = condition_frozen
        if condition_frozen:
            self.condition.requires_grad_(False)
        self.divisor = max(2 * patch, self.condition.divisor)
        time_channels, decoded = 2 * spec.width, self.condition.decoded_channels
        self.interpolated = patches == "interpolated"
        self.written = 1 if self.interpolated else patch**2  # values per patch
        self.coarse = conv(spatial_dims, decoded + mask_channels, spec.width, patch, stride=patch)
        self.deepest = conv(spatial_dims, self.condition.deepest_channels, spec.width, 1)
        self.time = TimeEmbedding(time_channels)
        self.stem = conv(spatial_dims, mask_channels * patch**spatial_dims, spec.width, 1)
        self.blocks = nn.ModuleList(
            ResBlock(spec.width, spec.width, time_channels, dims=spatial_dims) for _ in range(spec.blocks)
        )
        self.down = downsample(spec.width, spatial_dims)
        self.middle = ResBlock(spec.width, spec.width, time_channels, dims=spatial_dims)
        self.head = nn.Sequential(
            group_norm(spec.width),
            nn.SiLU(),
            zero_init(conv(spatial_dims, spec.width, mask_channels * self.written, 1)),
        )
        self.encoding = (
            CoarseEncoding(spec.width, dynamic_encoding, ff_parser) if dynamic_encoding or ff_parser else None
        )
        self.covariance = Covariance(decoded, mask_channels, RANK) if prior == "samples" else None
        self.base = zero_init(nn.Conv2d(mask_channels * patch**2, spec.width, 1)) if prior == "samples" else None
        deepest = self.condition.deepest_channels
        self.presence = PresenceHead(deepest, decoded, mask_channels) if presence else None
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; a frozen condition network always stays in evaluation mode."""
        super().train(mode)
        if self.condition_frozen:
            self.condition.eval()
        return self

    def place_of(self, source: Denoiser) -> str:
        """Return the prefix of the condition network for a supervised baseline; see the base class."""
        return "condition." if type(source) is type(self.condition) else super().place_of(source)

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the axes of the condition network and of all layers for masks; see the base class."""
        axes = {
            "coarse": ChannelAxis("regions", offset=self.condition.decoded_channels),
            "stem": ChannelAxis("regions", each=self.patch**self.spatial_dims),
            "head.2": ChannelAxis("regions", "output", each=self.written),
        }
        if self.covariance is not None:
            axes["base"] = ChannelAxis("regions", each=self.patch**2)
            axes |= nested_axes("covariance", self.covariance.channel_axes())
        if self.presence is not None:
            axes |= nested_axes("presence", self.presence.channel_axes())
        return nested_axes("condition", self.condition.channel_axes()) | axes

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters in the condition network; see the base class."""
        return self.condition.encoder_parameters()

    def encode(self, image: Tensor) -> Condition:
        """Run the condition network, and project its maps for the steps; see the base class."""
        self.check_image(image)
        maps = self.condition.maps(image)
        decoded = resize(maps.decoded, image.shape[2:])
        coarse = self.coarse(torch.cat([decoded, maps.prior.detach().sigmoid().to(decoded.dtype)], 1))
        coarse = coarse + resize(self.deepest(maps.deepest), coarse.shape[2:])
        encoding = () if self.encoding is None else (self.encoding.image_part(coarse),)
        normal = None if self.covariance is None else self.covariance(maps)
        presence = None if self.presence is None else self.presence(maps.deepest, decoded, maps.prior)
        return Condition((coarse, *encoding), maps.prior, normal, presence)

    def image_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the condition network; see the base class."""
        return self.condition.image_maps(image)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        """Predict; see the base class."""
        time, rows, (coarse, *encoding) = self.time(t), x_t.shape[0], condition.features
        m = self.stem(patches_to_channels(x_t, self.patch)) + repeat_for_samples(coarse, rows)
        prior = None if condition.prior is None else repeat_for_samples(condition.prior.detach(), rows)
        if self.base is not None and prior is not None:
            m = m + self.base(F.pixel_unshuffle(prior.sigmoid(), self.patch))
        half = len(self.blocks) // 2
        for block in self.blocks[:half]:
            m = block(m, time)
        if self.encoding is not None:
            m = self.encoding(repeat_for_samples(encoding[0], rows), m)
        m = m + F.interpolate(self.middle(self.down(m), time), scale_factor=2.0, mode="nearest")
        for block in self.blocks[half:]:
            m = block(m, time)
        out = self._write(self.head(m))
        return out + prior if self.residual and prior is not None else out

    def _write(self, m: Tensor) -> Tensor:
        """Return masks (rows, K, ...) from a coarse map (rows, K * written, ...) with one position per patch."""
        if self.interpolated:
            return F.interpolate(m, scale_factor=float(self.patch), mode=linear_mode(m))
        return F.pixel_shuffle(m, self.patch)
