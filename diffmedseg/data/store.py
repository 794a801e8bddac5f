"""Stores, which know how to read a split; and the views of a store that training and evaluation take."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from diffmedseg.data.batch import Batch
from diffmedseg.errors import DataError
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import majority
from diffmedseg.wording import count

if TYPE_CHECKING:
    from diffmedseg.data.native import Native
    from diffmedseg.figures import Drawing

Item = dict[str, Any]

_BACKGROUND = -0.999  # less is -1, but for rounding


class ImageStore(ABC):
    """One split of a data set: images and the masks of their raters on the model's grid, and as they were given.

    Attributes:
        ids: Name of each item, unique within the split.
        cases: The case (image or patient) that each item belongs to; items of a case stand together.
        weights: How often each item is drawn in training, relative to others; None draws all alike.
    """

    ids: Sequence[str]
    cases: Sequence[str]
    weights: Sequence[float] | None = None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        """Return image (C, H, W), masks (R, K, H, W) of every rater, id, case, and label where there is one.

        Raises:
            IndexError: If there is no such item.
        """
        index = check_index(index, len(self), "item")
        return _common(self, index) | {"masks": self.masks(index)}

    def plot(self, index: int) -> "Drawing":
        """Draw an item with the outlines of every rater's mask.

        Raises:
            IndexError: If there is no such item.
        """
        from diffmedseg.notebook import plot_item

        return plot_item(self, check_index(index, len(self), "item"))

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Return (C, H, W): uint8 in [0, 255], or float in [-1, 1] where the store normalises by itself."""

    @abstractmethod
    def masks(self, index: int) -> Tensor:
        """Return (R, K, H, W), uint8 in {0, 1}: the masks of every rater of this item on the model's grid."""

    @abstractmethod
    def reference(self, index: int) -> Tensor:
        """Return (R, K, h, w), uint8 in {0, 1}: the same masks at native resolution."""

    def unsure(self, index: int) -> Tensor | None:
        """Return (1, H, W), uint8 in {0, 1}: pixels whose mask nobody is sure of; no loss looks at them.

        None where the masks of the whole split are sure.
        """
        return None

    def native(self, index: int) -> "Native":
        """Return the item as its files have it.

        Raises:
            DataError: If a file cannot be read, or the items of this store come from no files.
        """
        raise DataError("These images come from no files of their own: there is nothing to convert.")

    def filled(self, index: int) -> Tensor:
        """Return (R, K), bool: which masks of the file have any foreground in the part that :meth:`masks` shows."""
        native, window = self.reference(index), self.window(index)
        native = native if window is None else torch.from_numpy(window.crop(native.numpy()))
        return native.flatten(2).any(-1)

    def field_of_view(self, index: int) -> Tensor | None:
        """Return (h, w), bool, at native resolution: outside of it nothing is scored. None where all is."""
        return None

    def window(self, index: int) -> CropWindow | None:
        """Return the part of the native image that the model is shown; outside of it nothing is found. None for all."""
        return None

    def spacing(self, index: int) -> tuple[float, ...] | None:
        """Return the distance of native (slices,) rows and columns in mm, None where it is not known."""
        return None

    def position(self, index: int) -> int:
        """Return the number of the item's slice in its case."""
        return 0

    def size_of(self, index: int) -> tuple[int, int]:
        """Return the height and width of the item as it was given."""
        height, width = self.reference(index).shape[-2:]
        return int(height), int(width)

    def label(self, index: int) -> int | None:
        """Return 0 for healthy, 1 for diseased, None where the data set has no image-level labels."""
        return None

    def healthy(self, index: int) -> Tensor | None:
        """Return the same image without disease, in the form of :meth:`image`; None where there is none."""
        return None


def to_unit(image: Tensor) -> Tensor:
    """Map an image as stores give it, uint8 in [0, 255] or float in [-1, 1], to [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else (image + 1) / 2


def to_signed(image: Tensor) -> Tensor:
    """Map an image as stores give it, uint8 in [0, 255] or float in [-1, 1], to [-1, 1]."""
    return image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image


def to_bytes(image: Tensor) -> Tensor:
    """Map an image as stores give it, uint8 in [0, 255] or float in [-1, 1], to uint8 in [0, 255]."""
    signed = to_signed(image).float()
    return ((signed + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def spread(number: int, most: int | None) -> list[int]:
    """Return at most so many of the indices below a number, at equal distances; all where ``most`` is None."""
    step = max(number / most, 1.0) if most else 1.0
    return [int(i * step) for i in range(min(number, most or number))]


def check_index(index: int, length: int, noun: str) -> int:
    """Return an index, from 0; negative ones count from the end.

    Raises:
        IndexError: If there is no such item.
    """
    if not -length <= index < length:
        reach = f"expected 0 to {length - 1}, or -{length} to -1" if length else "there is none"
        raise IndexError(f"There is no {noun} {index} of {count(length, noun)}: {reach}.")
    return index % length


def is_tissue(image: Tensor) -> Tensor:
    """Return where images (..., C, H, W), uint8 or in [-1, 1], are no background, (..., H, W), bool.

    Background is where every channel has its least value, as in the air around a head and in black corners.
    """
    return (to_signed(image) > _BACKGROUND).any(-3)


def _common(store: ImageStore, index: int) -> Item:
    item: Item = {"image": store.image(index), "id": store.ids[index], "case": store.cases[index]}
    label = store.label(index)
    return item if label is None else item | {"label": label}


class TrainingView(Dataset[Item]):
    """Items for training: the mask is that of one rater, drawn anew each time.

    Items are addressed by (index, draw) as :class:`~diffmedseg.data.sampler.TrainingSampler` yields them; ``draw``
    counts the items drawn since training began and keys all randomness about the item.

    Args:
        store: The split.
        seed: Seed of the choice of rater.
        regions: The regions that masks have, by number; None for all.
        with_masks: Whether items have a mask; without, they have what there is of labels and healthy counterparts.
        patch: Height and width of a patch that is cut from the item, anew each time; None for the whole.
        all_raters: Whether items with a mask also have the masks of all raters.
    """

    def __init__(
        self,
        store: ImageStore,
        seed: int,
        regions: Sequence[int] | None = None,
        with_masks: bool = True,
        patch: int | None = None,
        all_raters: bool = False,
    ) -> None:
        self.store, self.seed, self.with_masks, self.patch = store, seed, with_masks, patch
        self.all_raters = all_raters
        self.regions = slice(None) if regions is None else list(regions)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """Return image (C, H, W), id, case and draw; mask (K, H, W) in {0, 1}, or healthy (C, H, W) where there is one.

        Where masks are not sure everywhere, there is unsure (1, H, W) in {0, 1}. Where all raters are asked for, there
        are raters (R, K, H, W) besides the mask, which is one of them. Healthy images are their own counterparts.
        """
        index, draw = key
        item = _common(self.store, index) | {"draw": draw}
        if self.with_masks:
            masks = self.store.masks(index)[:, self.regions]
            rater = int(torch.randint(len(masks), (), generator=keyed_generator(self.seed, "rater", draw)))
            raters = {"raters": masks} if self.all_raters else {}
            return self._cut(item | {"mask": masks[rater]} | raters | _doubted(self.store, index), draw)
        healthy = self.store.healthy(index)
        return item if healthy is None else item | {"healthy": healthy}

    def _cut(self, item: Item, draw: int) -> Item:
        """Cut the same patch from image and masks."""
        if self.patch is None:
            return item
        generator, size = keyed_generator(self.seed, "patch", draw), item["mask"].shape[-2:]
        starts = [int(torch.randint(max(side - self.patch, 0) + 1, (), generator=generator)) for side in size]
        window = (..., *(slice(start, start + self.patch) for start in starts))
        return item | {name: item[name][window] for name in ("image", "mask", "raters", "unsure") if name in item}


class EvaluationView(Dataset[Item]):
    """Items for evaluation: the mask is the raters' majority, and every rater's own mask comes along.

    Args:
        store: The split.
        native: Whether to read the masks at native resolution, too.
        regions: The regions that masks have, by number; None for all.
    """

    def __init__(self, store: ImageStore, native: bool = True, regions: Sequence[int] | None = None) -> None:
        self.store, self.native, self.cases = store, native, store.cases
        self.regions = slice(None) if regions is None else list(regions)

    def __getitem__(self, index: int) -> Item:
        """Return image (C, H, W), mask (K, H, W), raters (R, K, H, W), id, case, index (the slice) and spacing.

        Where masks are not sure everywhere, there is unsure (1, H, W) in {0, 1}. With ``native`` also
        reference (R, K, h, w), field_of_view (h, w) or None, and window or None.
        """
        masks = self.store.masks(index)[:, self.regions]
        item = (
            _common(self.store, index)
            | {
                "mask": majority(masks),
                "raters": masks,
                "index": self.store.position(index),
                "spacing": self.store.spacing(index),
            }
            | _doubted(self.store, index)
        )
        if not self.native:
            return item
        reference = self.store.reference(index)[:, self.regions]
        native = {"field_of_view": self.store.field_of_view(index), "window": self.store.window(index)}
        return item | {"reference": reference} | native


class CaseView(Dataset[list[Item]]):
    """Whole cases for evaluation: item i holds all items of the i-th case, for networks that take volumes.

    Args:
        items: The items.
    """

    def __init__(self, items: EvaluationView) -> None:
        self.items = items
        self.cases = list(dict.fromkeys(items.store.cases))
        self._members: dict[str, list[int]] = {case: [] for case in self.cases}
        for index, case in enumerate(items.store.cases):
            self._members[case].append(index)

    def __getitem__(self, index: int) -> list[Item]:
        """Return the items of a case, in their order."""
        return [self.items[member] for member in self._members[self.cases[index]]]

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.cases)


def _doubted(store: ImageStore, index: int) -> Item:
    """Return the pixels in which the masks of an image are not sure, where a store has them."""
    unsure = store.unsure(index)
    return {} if unsure is None else {"unsure": unsure}


_LISTS = {"reference", "field_of_view", "window", "id", "case", "index", "draw", "spacing"}


def collate(items: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack items into a batch.

    ``raters`` are padded to the most raters in the batch, with ``rater_valid`` (B, R) telling which are real;
    What is native, names and numbers stay lists.
    """
    lists = {name: [item[name] for item in items] for name in items[0]}
    batch: Item = {}
    for name, values in lists.items():
        if name in _LISTS:
            batch[name] = values
        elif name == "raters":
            most = max(len(masks) for masks in values)
            batch["raters"] = torch.stack([torch.cat([m, m.new_zeros(most - len(m), *m.shape[1:])]) for m in values])
            batch["rater_valid"] = torch.tensor([[r < len(m) for r in range(most)] for m in values])
        else:
            batch[name] = default_collate(values)
    return cast(Batch, batch)
