"""Pictures of what training sees: items before and after augmentation, and by label."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.store import ImageStore, TrainingView, collate, to_signed
from diffmedseg.figures import outline, show
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.segmentation import majority


def draw_augmentation(data: SegmentationDataModule, num_images: int = 4, num_variants: int = 6) -> Figure:
    """Draw training images with their masks, as they are stored and as a training step gets them.

    Args:
        data: The data module, set up for ``fit``.
        num_images: Rows: different items, evenly spread over the split.
        num_variants: Columns besides the first: draws of the same item. Where there are several raters, each draw has
            one of them.
    """
    store = data.stores["train"]
    view, num_images = TrainingView(store, data.seed), min(num_images, len(store))
    figure = Figure(figsize=(1.7 * (num_variants + 1), 1.75 * num_images + 0.3), layout="constrained")
    grid = figure.subplots(num_images, num_variants + 1, squeeze=False)
    for row, axes in enumerate(grid):
        index = row * len(store) // num_images
        draws = [view[index, row * num_variants + variant] for variant in range(num_variants)]
        stored = [{name: value for name, value in draws[0].items() if name != "draw"}]  # without a draw: untouched
        batches = [data.on_after_batch_transfer(collate(items), 0) for items in (stored, draws)]
        pairs: list[tuple[Tensor, Tensor]] = [pair for b in batches for pair in zip(b["image"], b["mask"], strict=True)]
        for axis, (image, mask) in zip(axes, pairs, strict=True):
            show(axis, image)
            outline(axis, mask)
        axes[0].set_ylabel(store.ids[index], fontsize=6)
    grid[0][0].set_title("as stored", fontsize=8)
    grid[0][1].set_title("as trained", fontsize=8, loc="left")
    return figure


def draw_labels(store: ImageStore, num_images: int, seed: int) -> Figure:
    """Draw items by label, chosen as training draws them; outlines show the masks, which training is not given.

    Args:
        store: Items that have labels.
        num_images: Items of each label.
        seed: Seed of the choice.
    """
    weights = torch.ones(len(store)) if store.weights is None else torch.tensor(store.weights)
    labels = torch.tensor([store.label(index) for index in range(len(store))])
    figure = Figure(figsize=(1.3 * num_images, 3.1), layout="constrained")
    for label, axes in enumerate(figure.subplots(2, num_images, squeeze=False)):
        chance = weights * (labels == label)
        chosen = torch.multinomial(chance, num_images, True, generator=keyed_generator(seed, "labels", label)).tolist()
        for axis, index in zip(axes, chosen, strict=True):
            show(axis, to_signed(store.image(index)))
            outline(axis, majority(store.masks(index)))
        axes[0].set_ylabel(("healthy", "diseased")[label], fontsize=8)
    return figure


def draw_sheet(stores: Mapping[str, ImageStore], num_images: int = 40, columns: int = 10) -> Figure:
    """Draw a contact sheet: items evenly spread over each split, with every rater's outlines.

    Args:
        stores: By split.
        num_images: Items in all.
        columns: Items in a row.
    """
    total = sum(len(store) for store in stores.values())
    shown = []
    for split, store in stores.items():
        wanted = min(max(round(num_images * len(store) / total), 1), len(store))
        places = [i * len(store) // wanted for i in range(wanted)]
        shown += [(f"{split}: {store.ids[index]}", store, index) for index in places]
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.45 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (title, store, index) in zip(axes, shown, strict=False):
        show(axis, to_signed(store.image(index)))
        for rater in store.masks(index):
            outline(axis, rater, linewidth=0.7)
        axis.set_title(title, fontsize=5)
    for axis in list(figure.axes)[len(shown) :]:
        axis.axis("off")
    return figure
