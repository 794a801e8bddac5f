"""Windows of an image, for networks that see no more at once."""

from collections.abc import Iterable, Sequence
from types import EllipsisType

import torch
from torch import Tensor

#: Index of a window of (..., H, W).
Window = tuple[EllipsisType, slice, slice]


def windows(size: tuple[int, int], window: int) -> list[Window]:
    """Cover an image by windows that overlap by half or more.

    Args:
        size: Height and width of the image.
        window: Height and width of the windows; where the image is smaller, its own. 0 for the whole image.
    """
    height, width = (min(window or side, side) for side in size)
    rows, columns = _starts(size[0], height), _starts(size[1], width)
    return [(..., slice(top, top + height), slice(left, left + width)) for top in rows for left in columns]


def _starts(length: int, window: int) -> list[int]:
    if length <= window:
        return [0]
    steps = -(-(length - window) // max(window // 2, 1))
    return [round(i * (length - window) / steps) for i in range(steps + 1)]


def blend(parts: Sequence[Window], results: Iterable[Tensor], size: tuple[int, int]) -> Tensor:
    """Put together what was found in windows, each weighing most in its middle.

    Args:
        parts: The windows, of :func:`windows`.
        results: What was found in each, (B, C, h, w).
        size: Height and width of the image.

    Returns:
        (B, C, H, W).
    """
    if len(parts) == 1:
        [only] = results
        return only
    total = weight = torch.zeros(())
    for number, (part, result) in enumerate(zip(parts, results, strict=True)):
        if number == 0:
            total = result.new_zeros(*result.shape[:-2], *size)
            weight = result.new_zeros(size)
            rows, columns = ((torch.arange(n, device=result.device) + 0.5) / n for n in result.shape[-2:])
            hat = ((1 - (2 * rows - 1).abs())[:, None] * (1 - (2 * columns - 1).abs())).to(result.dtype)
        total[part] += result * hat
        weight[part] += hat
    return total / weight
