"""Running a network on overlapping windows of an image."""

from collections.abc import Callable

import torch
from torch import Tensor


def window_starts(length: int, window: int) -> list[int]:
    """Return where windows start that cover ``length`` evenly and overlap by half or more."""
    if length <= window:
        return [0]
    steps = -(-(length - window) // max(window // 2, 1))
    return [round(i * (length - window) / steps) for i in range(steps + 1)]


def by_windows(function: Callable[[Tensor], Tensor], x: Tensor, window: int) -> Tensor:
    """Apply a function to windows and blend what they give, each weighing most in its middle.

    Args:
        function: Takes (B, C, h, w) to (B, C', h, w).
        x: (B, C, H, W).
        window: Height and width of the windows; where the image is smaller, its own.

    Returns:
        (B, C', H, W).
    """
    height, width = (int(n) for n in x.shape[-2:])
    size = min(window, height), min(window, width)
    if size == (height, width):
        return function(x)
    rows, columns = ((torch.arange(n, device=x.device) + 0.5) / n for n in size)
    hat = (1 - (2 * rows - 1).abs())[:, None] * (1 - (2 * columns - 1).abs())
    total, weight = None, x.new_zeros(height, width)
    for top in window_starts(height, size[0]):
        for left in window_starts(width, size[1]):
            part = (..., slice(top, top + size[0]), slice(left, left + size[1]))
            result = function(x[part]).float() * hat
            total = result.new_zeros(*result.shape[:2], height, width) if total is None else total
            total[part] += result
            weight[part] += hat
    assert total is not None  # there is at least one window
    return total / weight
