"""Views of a store: the items that training and evaluation take, and their batches."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch.utils.data import Dataset, default_collate

from diffmedseg.data.batch import Batch
from diffmedseg.data.store import ImageStore, Item, store_item
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.segmentation import majority


class TrainingView(Dataset[Item]):
    """Items for training, with the mask of a rater who is drawn anew each time.

    The key of an item is (index, draw), as :class:`~diffmedseg.data.sampler.TrainingSampler` yields it. ``draw`` counts
    the items drawn since training began, and keys all randomness of the item.

    Args:
        store: The split.
        seed: Seed of the choice of rater.
        regions: Numbers of the regions of the masks; None for all regions.
        with_masks: Whether items have a mask. If not, items have their label and healthy counterpart, if known.
        patch: Height and width of a patch that is cut at random from the item; None for the whole item.
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
        """Return an item for training.

        Returns:
            image (C, H, W), id, case and draw. With masks: mask (K, H, W) in {0, 1}; raters (R, K, H, W) with
            ``all_raters``; and unsure (1, H, W) in {0, 1} if the masks have unsure pixels. Without masks: healthy
            (C, H, W) if there is a healthy counterpart; a healthy image is its own.
        """
        index, draw = key
        item = store_item(self.store, index) | {"draw": draw}
        if self.with_masks:
            masks = self.store.masks(index)[:, self.regions]
            rater = int(torch.randint(len(masks), (), generator=keyed_generator(self.seed, "rater", draw)))
            raters = {"raters": masks} if self.all_raters else {}
            return self._cut_patch(item | {"mask": masks[rater]} | raters | _unsure_pixels(self.store, index), draw)
        healthy = self.store.healthy(index)
        return item if healthy is None else item | {"healthy": healthy}

    def _cut_patch(self, item: Item, draw: int) -> Item:
        """Cut the same patch from image and masks."""
        if self.patch is None:
            return item
        generator, size = keyed_generator(self.seed, "patch", draw), item["mask"].shape[-2:]
        starts = [int(torch.randint(max(side - self.patch, 0) + 1, (), generator=generator)) for side in size]
        window = (..., *(slice(start, start + self.patch) for start in starts))
        return item | {name: item[name][window] for name in ("image", "mask", "raters", "unsure") if name in item}


class EvaluationView(Dataset[Item]):
    """Items for evaluation, with the majority of the raters and the mask of each rater.

    Args:
        store: The split.
        native: Whether items also have the masks at native resolution.
        regions: Numbers of the regions of the masks; None for all regions.
    """

    def __init__(self, store: ImageStore, native: bool = True, regions: Sequence[int] | None = None) -> None:
        self.store, self.native, self.cases = store, native, store.cases
        self.regions = slice(None) if regions is None else list(regions)

    def __getitem__(self, index: int) -> Item:
        """Return an item for evaluation.

        Returns:
            image (C, H, W), mask (K, H, W), raters (R, K, H, W), id, case, index (the slice), spacing and num_slices;
            unsure (1, H, W) in {0, 1} if the masks have unsure pixels. With ``native`` also reference (R, K, h, w),
            field_of_view (h, w) or None, and window or None.
        """
        masks = self.store.masks(index)[:, self.regions]
        item = (
            store_item(self.store, index)
            | {
                "mask": majority(masks),
                "raters": masks,
                "index": self.store.position(index),
                "spacing": self.store.spacing(index),
                "num_slices": self.store.num_slices(index),
            }
            | _unsure_pixels(self.store, index)
        )
        if not self.native:
            return item
        reference = self.store.reference(index)[:, self.regions]
        native = {"field_of_view": self.store.field_of_view(index), "window": self.store.window(index)}
        return item | {"reference": reference} | native


class CaseView(Dataset[list[Item]]):
    """Whole cases for the evaluation of networks of volumes: item i has all items of case i.

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
        """Return the items of a case, in order."""
        return [self.items[member] for member in self._members[self.cases[index]]]

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.cases)


def _unsure_pixels(store: ImageStore, index: int) -> Item:
    """Return the unsure pixels of an item; empty if the store has none."""
    unsure = store.unsure(index)
    return {} if unsure is None else {"unsure": unsure}


_LISTS = {"reference", "field_of_view", "window", "id", "case", "index", "draw", "spacing", "num_slices"}


def collate(items: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack items into a batch.

    ``raters`` are padded to the maximum number of raters in the batch, and ``rater_valid`` (B, R) is False for padding.
    Maps at native resolution, names and numbers stay lists.
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
