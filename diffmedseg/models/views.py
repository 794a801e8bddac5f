"""Views of an image for test-time augmentation."""

from typing import Literal

from torch import Tensor

#: Augmentation of images for prediction. ``flips``: the image, and the image flipped left-right, up-down and both.
TTA = Literal["none", "flips"]

#: The axes along which each view flips an image (..., H, W); the first view is the unchanged image.
VIEWS: dict[TTA, tuple[tuple[int, ...], ...]] = {"none": ((),), "flips": ((), (-1,), (-2,), (-2, -1))}


def views_of(tta: TTA) -> tuple[tuple[int, ...], ...]:
    """Return the views of a test-time augmentation.

    Raises:
        ValueError: If there is no such augmentation.
    """
    if tta not in VIEWS:
        raise ValueError(f"tta is {tta!r}; it may be {' or '.join(VIEWS)}.")
    return VIEWS[tta]


def flip(maps: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Flip maps (..., H, W) along axes; the same flip undoes it."""
    return maps.flip(axes) if axes else maps
