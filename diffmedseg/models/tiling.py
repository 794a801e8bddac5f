"""Windows of an image or a volume, for networks that were trained on crops."""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import product
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn

#: Index of a window of (..., H, W), or of (..., D, H, W).
Window = tuple[EllipsisType, *tuple[slice, ...]]


def windows(size: Sequence[int], window: int | Sequence[int]) -> list[Window]:
    """Cover an image or a volume with windows that overlap by half or more.

    Args:
        size: Sides of the image or volume.
        window: Side of the windows, or a side for each dimension, at most the side of the image; 0 for the whole side.
    """
    limits = [window] * len(size) if isinstance(window, int) else window
    sides = [min(limit or side, side) for limit, side in zip(limits, size, strict=True)]
    starts = (_starts(length, side) for length, side in zip(size, sides, strict=True))
    return [
        (..., *(slice(start, start + side) for start, side in zip(corner, sides, strict=True)))
        for corner in product(*starts)
    ]


def _starts(length: int, window: int) -> list[int]:
    if length <= window:
        return [0]
    steps = -(-(length - window) // max(window // 2, 1))
    return [round(i * (length - window) / steps) for i in range(steps + 1)]


def blend(parts: Sequence[Window], results: Iterable[Tensor], size: Sequence[int]) -> Tensor:
    """Blend the results of windows. The weight of a window is highest in its middle.

    Args:
        parts: The windows, of :func:`windows`.
        results: The result of each window, (..., h, w) or (..., d, h, w).
        size: Sides of the image or volume.

    Returns:
        (..., *size).
    """
    if len(parts) == 1:
        [only] = results
        return only
    total = weight = torch.zeros(())
    for number, (part, result) in enumerate(zip(parts, results, strict=True)):
        if number == 0:
            dims = len(size)
            total = result.new_zeros(*result.shape[:-dims], *size)
            weight = result.new_zeros(*size)
            positions = [(torch.arange(n, device=result.device) + 0.5) / n for n in result.shape[-dims:]]
            slopes = [1 - (2 * position - 1).abs() for position in positions]
            hat = reduce(lambda hat, slope: hat[..., None] * slope, slopes).to(result.dtype)
        total[part] += result * hat
        weight[part] += hat
    return total / weight


class Tiling(nn.Module):
    """Stores the size of training crops, and covers images with windows of this size for segmentation.

    Args:
        image_size: Height and width of the model's grid.
        divisor: Sides of images have to be divisible by this number.
        depth: Number of slices in a training volume; 0 for networks of images.
    """

    crop: Tensor  # side of training crops in pixels; 0 for whole images

    def __init__(self, image_size: tuple[int, int], divisor: int, depth: int = 0) -> None:
        super().__init__()
        self.image_size, self.divisor, self.depth = image_size, divisor, depth
        self.register_buffer("crop", torch.tensor(0))
        self.register_load_state_dict_pre_hook(_saw_whole_images)  # type: ignore[no-untyped-call]  # of torch

    def remember(self, size: tuple[int, int]) -> None:
        """Store the size of training images.

        Raises:
            ValueError: If they are neither whole images on the grid nor square crops of it, or do not fit the network.
        """
        if size != self.image_size and (size[0] != size[1] or size[0] > min(self.image_size)):
            raise ValueError(
                f"image_size of the model is {self.image_size}; training images have {tuple(size)}. Give both the same "
                "image_size, or train on square crops."
            )
        if any(side % self.divisor for side in size):
            raise ValueError(
                f"Training images of {tuple(size)} are not divisible by {self.divisor}, as this network needs: change "
                "--data.image_size, --data.patch or the share of the crops."
            )
        self.crop.fill_(0 if size == self.image_size else size[-1])

    def parts(self, slices: int | None = None) -> list[Window]:
        """Return the windows of an image on the model's grid.

        Args:
            slices: Number of slices of a volume on the model's grid; None for an image.
        """
        crop = int(self.crop)
        if slices is None:
            return windows(self.image_size, crop)
        return windows((slices, *self.image_size), (self.depth, crop, crop))


def _saw_whole_images(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: object) -> None:
    """Complete the weights of an older checkpoint, which lack the size of crops."""
    state_dict.setdefault(f"{prefix}crop", torch.tensor(0))
