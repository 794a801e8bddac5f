"""Presence: the probability that a rater outlines anything at all, apart from the shape of the outline."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffmedseg.keyed_random import Generator, keyed_uniform
from diffmedseg.models.denoiser import ChannelAxis, repeat_for_samples

_HIDDEN = 64


class PresenceHead(nn.Module):
    """Predicts, for each region, the probability that a rater outlines anything.

    The head reads the mean and the maximum of the deepest maps, the mean of the decoded maps under the condition
    network's own mask, and the size and the largest probability of that mask. At first every probability is 0.5.

    Args:
        deepest_channels: Channels of the deepest maps.
        decoded_channels: Channels of the decoded maps.
        mask_channels: K.
    """

    def __init__(self, deepest_channels: int, decoded_channels: int, mask_channels: int) -> None:
        super().__init__()
        features = 2 * deepest_channels + decoded_channels
        self.norm = nn.LayerNorm(features)
        self.hidden = nn.Linear(features + 2, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, mask_channels)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def channel_axes(self) -> dict[str, ChannelAxis]:
        """Return the last layer; see :meth:`~diffmedseg.models.Denoiser.channel_axes`."""
        return {"out": ChannelAxis("regions", "output")}

    def forward(self, deepest: Tensor, decoded: Tensor, prior: Tensor) -> Tensor:
        """Return the logits of presence.

        Args:
            deepest: (B, ``deepest_channels``, h, w).
            decoded: (B, ``decoded_channels``, H, W).
            prior: (B, K, H, W), logits of the condition network's own mask. They get no gradient.

        Returns:
            (B, K), float32 under any autocast.
        """
        with torch.autocast(prior.device.type, enabled=False):
            deepest, decoded, mask = deepest.float(), decoded.float(), prior.detach().float().sigmoid()
            area = mask.sum((2, 3))
            inside = torch.einsum("bkhw,bchw->bkc", mask, decoded) / area[..., None].clamp(min=1)
            image = torch.cat([deepest.mean((2, 3)), deepest.amax((2, 3))], 1)
            pooled = torch.cat([image[:, None].expand(-1, inside.shape[1], -1), inside], 2)
            size = torch.stack([area.log1p(), mask.amax((2, 3))], 2)
            hidden = nn.functional.silu(self.hidden(torch.cat([self.norm(pooled), size], 2)))
            logits: Tensor = self.out(hidden).diagonal(dim1=1, dim2=2)  # each region has its own output
            return logits


def draw_presence(chance: Tensor, generators: Sequence[Generator], nested: bool) -> Tensor:
    """Draw, for each sample and region, whether the region is present.

    The draw of a sample depends on its generator alone, and on no other sample. So the first samples do not depend on
    the number of samples, and the unbiased GED is unbiased. Stratified draws would lower the usual GED of papers, and
    make the unbiased GED too low.

    Args:
        chance: (B, K, H, W), in [0, 1]: the probability that a rater outlines anything. It varies over an image that is
            segmented in windows.
        generators: B * S, image-major; each is advanced.
        nested: Whether each region lies within the previous region. One number then decides for all regions.

    Returns:
        (B * S, K, H, W), bool.
    """
    numbers = presence_numbers(chance.shape[1], nested)
    uniform = keyed_uniform(numbers, generators)
    return decide_presence(chance, uniform.to(chance.device))


def presence_numbers(regions: int, nested: bool) -> int:
    """Return how many random numbers decide on the regions of a sample."""
    return 1 if nested else regions


def decide_presence(chance: Tensor, uniform: Tensor) -> Tensor:
    """Decide on presence by numbers (B * S, 1 or K) in [0, 1); see :func:`draw_presence`."""
    return uniform[:, :, None, None] < repeat_for_samples(chance, uniform.shape[0])
