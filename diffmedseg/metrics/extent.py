"""How tall regions are: the vertical cup-to-disc ratio of glaucoma, and the like of other nested regions."""

import torch
from torch import Tensor


def vertical_extent(mask: Tensor) -> Tensor:
    """Return the rows from the first to the last that a mask (..., H, W), bool, reaches: (...), int64; 0 if empty."""
    rows = mask.any(-1)
    first = rows.int().argmax(-1)
    last = rows.shape[-1] - 1 - rows.flip(-1).int().argmax(-1)
    return torch.where(rows.any(-1), last - first + 1, 0)


def vertical_ratios(regions: Tensor) -> Tensor:
    """Return the height of each nested region as a share of that of the one around it.

    Args:
        regions: (..., K, H, W), bool, from the outermost in; upright.

    Returns:
        (..., K), float64: NaN for the outermost, and where what is around is empty.
    """
    extent = vertical_extent(regions).double()
    around = extent.roll(1, -1)
    ratio = torch.where(around > 0, extent / around.clamp(min=1), torch.nan)
    ratio[..., 0] = torch.nan
    return ratio
