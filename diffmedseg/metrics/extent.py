"""Vertical extent of regions, for the cup-to-disc ratio in glaucoma and the same ratio of other nested regions."""

import torch
from torch import Tensor


def vertical_extent(mask: Tensor) -> Tensor:
    """Return the number of rows from the first to the last of a mask (..., H, W), bool: (...), int64; 0 if empty."""
    rows = mask.any(-1)
    first = rows.int().argmax(-1)
    last = rows.shape[-1] - 1 - rows.flip(-1).int().argmax(-1)
    return torch.where(rows.any(-1), last - first + 1, 0)


def vertical_ratios(regions: Tensor) -> Tensor:
    """Return the height of each nested region as a share of the height of the region around it.

    Args:
        regions: (..., K, H, W), bool, from the outermost to the innermost; upright.

    Returns:
        (..., K), float64: NaN for the outermost region, and if the region around is empty.
    """
    extent = vertical_extent(regions).double()
    around = extent.roll(1, -1)
    ratio = torch.where(around > 0, extent / around.clamp(min=1), torch.nan)
    ratio[..., 0] = torch.nan
    return ratio
