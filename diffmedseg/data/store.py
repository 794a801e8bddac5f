"""Stores: each reads the items of one split."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffmedseg.errors import DataError
from diffmedseg.reading.windows import CropWindow
from diffmedseg.wording import count

if TYPE_CHECKING:
    from diffmedseg.data.native import Native
    from diffmedseg.figures import Drawing

Item = dict[str, Any]

_BACKGROUND = -0.999  # the minimum, -1, up to rounding


class ImageStore(ABC):
    """One split of a data set: images and the masks of all raters, on the model's grid and at native resolution.

    Attributes:
        ids: Name of each item, unique within the split.
        cases: Case (image or patient) of each item; the items of a case stand together.
        weights: Relative frequency of each item in training; None for equal frequencies.
    """

    ids: Sequence[str]
    cases: Sequence[str]
    weights: Sequence[float] | None = None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        """Return image (C, H, W), masks (R, K, H, W) of all raters, id, case, and the label if the store has labels.

        Raises:
            IndexError: If there is no such item.
        """
        index = check_index(index, len(self), "item")
        return store_item(self, index) | {"masks": self.masks(index)}

    def plot(self, index: int) -> "Drawing":
        """Draw an item with the outline of each rater's mask.

        Raises:
            IndexError: If there is no such item.
        """
        from diffmedseg.notebook import plot_item

        return plot_item(self, check_index(index, len(self), "item"))

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Return the image (C, H, W): uint8 in [0, 255], or float in [-1, 1] if the store normalises images."""

    @abstractmethod
    def masks(self, index: int) -> Tensor:
        """Return the masks of all raters on the model's grid, (R, K, H, W), uint8 in {0, 1}."""

    @abstractmethod
    def reference(self, index: int) -> Tensor:
        """Return the masks of all raters at native resolution, (R, K, h, w), uint8 in {0, 1}."""

    def unsure(self, index: int) -> Tensor | None:
        """Return the unsure pixels, (1, H, W), uint8 in {0, 1}; None if the split has none.

        The mask of an unsure pixel is unknown, and losses ignore the pixel.
        """
        return None

    def native(self, index: int) -> "Native":
        """Return the content of the item's files.

        Raises:
            DataError: If a file cannot be read, or the store does not read its items from files.
        """
        raise DataError("These images are not read from files: there is nothing to convert.")

    def filled(self, index: int) -> Tensor:
        """Return whether each native mask has foreground in the part that :meth:`masks` shows, (R, K), bool."""
        native, window = self.reference(index), self.window(index)
        native = native if window is None else torch.from_numpy(window.crop(native.numpy()))
        return native.flatten(2).any(-1)

    def field_of_view(self, index: int) -> Tensor | None:
        """Return the pixels that are scored, (h, w), bool, at native resolution; None for all pixels."""
        return None

    def window(self, index: int) -> CropWindow | None:
        """Return the part of the native image that the model is shown; the rest has no foreground. None for all."""
        return None

    def spacing(self, index: int) -> tuple[float, ...] | None:
        """Return the distance of native (slices,) rows and columns in mm; None if unknown."""
        return None

    def position(self, index: int) -> int:
        """Return the number of the item's slice in its case."""
        return 0

    def num_slices(self, index: int) -> int:
        """Return the number of slices of the item's case, with the slices that are not items."""
        return 1

    def size_of(self, index: int) -> tuple[int, int]:
        """Return the native height and width of the item."""
        height, width = self.reference(index).shape[-2:]
        return int(height), int(width)

    def label(self, index: int) -> int | None:
        """Return 0 for healthy, 1 for diseased, and None if the data set has no image-level labels."""
        return None

    def healthy(self, index: int) -> Tensor | None:
        """Return the healthy counterpart of the image, in the form of :meth:`image`; None if there is none."""
        return None


def to_unit(image: Tensor) -> Tensor:
    """Map an image of a store, uint8 in [0, 255] or float in [-1, 1], to [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else (image + 1) / 2


def to_signed(image: Tensor) -> Tensor:
    """Map an image of a store, uint8 in [0, 255] or float in [-1, 1], to [-1, 1]."""
    return image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image


def to_bytes(image: Tensor) -> Tensor:
    """Map an image of a store, uint8 in [0, 255] or float in [-1, 1], to uint8 in [0, 255]."""
    signed = to_signed(image).float()
    return ((signed + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def spread(number: int, most: int | None) -> list[int]:
    """Return at most ``most`` of the indices below ``number``, equally spaced; all indices if ``most`` is None."""
    step = max(number / most, 1.0) if most else 1.0
    return [int(i * step) for i in range(min(number, most or number))]


def check_index(index: int, length: int, noun: str) -> int:
    """Return an index as a number from 0; a negative index counts from the end.

    Raises:
        IndexError: If there is no such item.
    """
    if not -length <= index < length:
        reach = f"expected 0 to {length - 1}, or -{length} to -1" if length else "there is none"
        raise IndexError(f"There is no {noun} {index} of {count(length, noun)}: {reach}.")
    return index % length


def is_tissue(image: Tensor) -> Tensor:
    """Return the pixels of images (..., C, H, W), uint8 or in [-1, 1], that are not background, (..., H, W), bool.

    In background, such as air around a head and black corners, all channels have their minimum.
    """
    return (to_signed(image) > _BACKGROUND).any(-3)


def store_item(store: ImageStore, index: int) -> Item:
    """Return an item without masks: image, id, case, and the label if the store has labels."""
    item: Item = {"image": store.image(index), "id": store.ids[index], "case": store.cases[index]}
    label = store.label(index)
    return item if label is None else item | {"label": label}
