"""MedSegDiff-V2's semantic condition: SS-Former, attention in Fourier space (arXiv 2301.11798, section 3.3)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmedseg.models.layers import layer_norm, zero_init
from diffmedseg.models.medsegdiff.ff_parser import (
    column_frequencies,
    filter_by_products,
    filter_spectrum,
    row_frequencies,
)


class SpectrumFilter(nn.Module):
    """The neural band-pass filter: it predicts the gain of each frequency from the time step.

    A network on the coordinates of the spectrum (signed frequencies of rows and columns, in cycles per pixel) is
    modulated by time, and ends in a sigmoid. The input is coordinates, so the filter works at every map size.

    Args:
        time_channels: Length of the time embedding.
        channels: Width of the network.
        blocks: Depth of the network.
    """

    def __init__(self, time_channels: int, channels: int = 16, blocks: int = 3) -> None:
        super().__init__()
        in_widths = [2, *[channels] * (blocks - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_widths)
        self.modulations = nn.ModuleList(nn.Linear(time_channels, 2 * channels) for _ in in_widths)
        self.head = zero_init(nn.Conv2d(channels, 1, 1))

    def forward(self, height: int, width: int, time: Tensor) -> Tensor:
        """Return the filter of a half-spectrum, (rows, 1, height, width // 2 + 1), for time embeddings (rows, T)."""
        rows = row_frequencies(height, time.device)
        columns = column_frequencies(width, time.device)
        m = 2 * torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]  # [-1, 1]
        for conv, modulation in zip(self.convs, self.modulations, strict=True):
            scale, shift = modulation(F.silu(time))[:, :, None, None].chunk(2, 1)
            m = F.relu(layer_norm(conv(m)) * (1 + scale) + shift)
        out: Tensor = 2 * self.head(m).sigmoid()  # starts at 1: all frequencies pass
        return out


class SpectralCrossAttention(nn.Module):
    """Cross-attention with an affinity that is filtered in Fourier space.

    M = F(query W_q) F(key W_k)^T, M' = M * filter(t), f = F^-1(M') (value W_v). The filter acts on the query's
    frequencies, and F is unitary. So F^-1(M') is the affinity of the filtered query with the key, and M needs no
    transform. There is no softmax, as in the paper. So the products are taken in the order with a cost linear in the
    number of positions.

    Args:
        channels: Channels of all maps.
        time_channels: Length of the time embedding.
        filtered: Whether to filter the affinity.
    """

    def __init__(self, channels: int, time_channels: int, filtered: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.filter = SpectrumFilter(time_channels) if filtered else None
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, time: Tensor) -> Tensor:
        """Attend, with maps (rows, C, H, W). The transform runs in float32."""
        height, width = query.shape[-2:]
        q, k, v = layer_norm(self.query(query)), layer_norm(self.key(key)), self.value(value)
        if self.filter is not None:
            with torch.autocast(query.device.type, enabled=False):
                response = self.filter(height, width, time.float())
                apply_filter = filter_by_products if torch.compiler.is_exporting() else filter_spectrum
                q = apply_filter(q.float(), response)
        scale = 1 / (height * width * math.sqrt(q.shape[1]))
        summary = torch.einsum("bkhw,bvhw->bkv", k * scale, v)
        out: Tensor = self.out(torch.einsum("bkhw,bkv->bvhw", q.to(v.dtype), summary.to(v.dtype)))
        return out


class SSFormerLayer(nn.Module):
    """A layer with two attentions to the mask's map: from the image's map, then from the blend of both maps.

    Args:
        channels: Channels of both maps.
        time_channels: Length of the time embedding.
        filtered: Whether affinities are filtered.
    """

    def __init__(self, channels: int, time_channels: int, filtered: bool) -> None:
        super().__init__()
        self.blend = SpectralCrossAttention(channels, time_channels, filtered)
        self.answer = SpectralCrossAttention(channels, time_channels, filtered)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, 2 * channels, 1), nn.GELU(), zero_init(nn.Conv2d(2 * channels, channels, 1))
            )
            for _ in range(2)
        )

    def forward(self, c: Tensor, e: Tensor, time: Tensor) -> Tensor:
        """Return the next c from the image's map c and the mask's map e, all (rows, C, H, W)."""
        c = c + self.blend(c, e, c, time)
        c = c + self.mlps[0](layer_norm(c))
        c = c + self.answer(c, e, e, time)
        out: Tensor = c + self.mlps[1](layer_norm(c))
        return out


class SSFormer(nn.Module):
    """Layers of attention between the deepest map of the noisy mask and the deepest map of the image.

    Args:
        channels: Channels of both maps.
        time_channels: Length of the time embedding.
        layers: Number of layers; 0 adds the two maps.
        filtered: Whether affinities are filtered.
    """

    def __init__(self, channels: int, time_channels: int, layers: int, filtered: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SSFormerLayer(channels, time_channels, filtered) for _ in range(layers))

    def forward(self, c: Tensor, e: Tensor, time: Tensor) -> Tensor:
        """Return the decoder's input from the image's map c and the mask's map e, all (rows, C, H, W)."""
        for layer in self.layers:
            c = layer(c, e, time)
        return e + c
