"""Windows of an image, for networks that see no more at once."""

from collections.abc import Iterable, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn

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


class Tiling(nn.Module):
    """Remembers how much of an image a network saw at once in training, to show it as much when it segments.

    Args:
        image_size: Height and width of the model's grid.
        divisor: Of sides that the network takes.
    """

    crop: Tensor  # height and width of training's crops, in pixels; 0 for whole images

    def __init__(self, image_size: tuple[int, int], divisor: int) -> None:
        super().__init__()
        self.image_size, self.divisor = image_size, divisor
        self.register_buffer("crop", torch.tensor(0))
        self.register_load_state_dict_pre_hook(_saw_whole_images)  # type: ignore[no-untyped-call]  # of torch

    def remember(self, size: tuple[int, int]) -> None:
        """Note the size of training images.

        Raises:
            ValueError: If they are neither whole images on the grid nor square crops of it, or do not fit the network.
        """
        if size != self.image_size and (size[0] != size[1] or size[0] > min(self.image_size)):
            raise ValueError(
                f"The model segments {self.image_size}, and is trained on images of {tuple(size)}: give both the same "
                "image_size, or train on square crops of it."
            )
        if any(side % self.divisor for side in size):
            raise ValueError(
                f"Training images of {tuple(size)} are not divisible by {self.divisor}, as this network needs: change "
                "--data.image_size, --data.patch or the share of the crops."
            )
        self.crop.fill_(0 if size == self.image_size else size[-1])

    def parts(self) -> list[Window]:
        """Return what the network sees at once of an image on the model's grid, part by part."""
        return windows(self.image_size, int(self.crop))


def _saw_whole_images(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: object) -> None:
    """Complete the state of a model that was saved before there were crops."""
    state_dict.setdefault(f"{prefix}crop", torch.tensor(0))
