"""How MedSegDiff-Lite writes a mask in full resolution from its coarse map: five ways against visible patches.

Each position of the coarse map stands for a patch of 4 x 4 pixels. Where every patch is written by itself, the borders
of the patches show in samples. A writer may use details of the image in full resolution; they are computed once per
image.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.models.denoiser import ChannelAxis
from diffmedseg.models.layers import linear_mode, zero_init

Patches = Literal["apart", "overlapping", "smoothed", "detailed", "interpolated", "guided"]


class PatchWriter(nn.Module):
    """Writes each patch from its own position of the coarse map: ``apart``.

    Args:
        mask_channels: K.
        patch: Side of a patch, in pixels.
        decoded_channels: Channels of the image's map in full resolution.

    Attributes:
        each: Channels per region that :meth:`forward` takes.
        reach: Side of the square of patches that are read and written together: the kernel of the convolutions that
            lead from noisy masks to the coarse map, and back.
    """

    reach = 1

    def __init__(self, mask_channels: int, patch: int, decoded_channels: int) -> None:
        super().__init__()
        self.patch, self.each = patch, patch**2

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return those of the writer's own convolutions; see :meth:`Denoiser.channel_axes`."""
        return {}

    def details(self, decoded: Tensor) -> tuple[Tensor, ...]:
        """Project the image's map (B, decoded_channels, H, W) to what the writer needs of it: none or one map."""
        return ()

    def forward(self, m: Tensor, details: tuple[Tensor, ...]) -> Tensor:
        """Write masks.

        Args:
            m: (B * S, K * each, H / patch, W / patch), image-major.
            details: Those of the B images.

        Returns:
            (B * S, K, H, W).
        """
        return F.pixel_shuffle(m, self.patch)


class OverlappingWriter(PatchWriter):
    """Reads and writes each patch together with its eight neighbours: ``overlapping``."""

    reach = 3


class SmoothedWriter(PatchWriter):
    """Smooths what was written apart by a learned 3 x 3 kernel per region, at first the identity: ``smoothed``."""

    def __init__(self, mask_channels: int, patch: int, decoded_channels: int) -> None:
        super().__init__(mask_channels, patch, decoded_channels)
        self.smooth = zero_init(nn.Conv2d(mask_channels, mask_channels, 3, padding=1, groups=mask_channels))
        with torch.no_grad():
            self.smooth.weight[:, :, 1, 1] = 1

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return that of the kernels; see the base class."""
        return {"smooth": ChannelAxis("regions", "output")}

    def forward(self, m: Tensor, details: tuple[Tensor, ...]) -> Tensor:
        """Write masks; see the base class."""
        out: Tensor = self.smooth(F.pixel_shuffle(m, self.patch))
        return out


class DetailedWriter(PatchWriter):
    """Corrects what was written apart, with the image's details, by two 3 x 3 convolutions: ``detailed``.

    At first the correction is zero.
    """

    _WIDTH = 4

    def __init__(self, mask_channels: int, patch: int, decoded_channels: int) -> None:
        super().__init__(mask_channels, patch, decoded_channels)
        self.project = nn.Conv2d(decoded_channels, self._WIDTH, 1)
        self.read = nn.Conv2d(mask_channels, self._WIDTH, 3, padding=1)
        self.correct = zero_init(nn.Conv2d(self._WIDTH, mask_channels, 3, padding=1))

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return those of what reads and of what corrects; see the base class."""
        return {"read": ChannelAxis("regions"), "correct": ChannelAxis("regions", "output")}

    def details(self, decoded: Tensor) -> tuple[Tensor, ...]:
        """Return a map of few channels; see the base class."""
        return (self.project(decoded),)

    def forward(self, m: Tensor, details: tuple[Tensor, ...]) -> Tensor:
        """Write masks; see the base class."""
        written, [detail] = F.pixel_shuffle(m, self.patch), details
        joined = self.read(written).unflatten(0, (detail.shape[0], -1)) + detail[:, None]
        out: Tensor = written + self.correct(F.silu(joined.flatten(0, 1)))
        return out


class InterpolatedWriter(PatchWriter):
    """Interpolates the coarse map linearly: ``interpolated``. What is finer comes from the condition's own mask."""

    def __init__(self, mask_channels: int, patch: int, decoded_channels: int) -> None:
        super().__init__(mask_channels, patch, decoded_channels)
        self.each = 1

    def forward(self, m: Tensor, details: tuple[Tensor, ...]) -> Tensor:
        """Write masks, of images or of volumes; see the base class."""
        return F.interpolate(m, scale_factor=float(self.patch), mode=linear_mode(m))


class GuidedWriter(PatchWriter):
    """Interpolates a bias and weights, by which the image's details are added up at each pixel: ``guided``."""

    _DETAILS = 3

    def __init__(self, mask_channels: int, patch: int, decoded_channels: int) -> None:
        super().__init__(mask_channels, patch, decoded_channels)
        self.each = 1 + self._DETAILS
        self.project = nn.Conv2d(decoded_channels, self._DETAILS, 1)

    def details(self, decoded: Tensor) -> tuple[Tensor, ...]:
        """Return a map of few channels; see the base class."""
        return (self.project(decoded),)

    def forward(self, m: Tensor, details: tuple[Tensor, ...]) -> Tensor:
        """Write masks; see the base class."""
        [detail] = details
        m = F.interpolate(m, scale_factor=float(self.patch), mode="bilinear")
        images, samples = detail.shape[0], m.shape[0] // detail.shape[0]
        m = m.reshape(images, samples, -1, self.each, *m.shape[-2:])  # (B, S, K, each, H, W)
        out = m[:, :, :, 0] + (m[:, :, :, 1:] * detail[:, None, None]).sum(3)
        return out.flatten(0, 1)


WRITERS: dict[Patches, type[PatchWriter]] = {
    "apart": PatchWriter,
    "overlapping": OverlappingWriter,
    "smoothed": SmoothedWriter,
    "detailed": DetailedWriter,
    "interpolated": InterpolatedWriter,
    "guided": GuidedWriter,
}
