"""Figures of training items: before and after augmentation, by label, and as a contact sheet."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.store import ImageStore, to_signed
from diffmedseg.data.views import TrainingView, collate
from diffmedseg.figures import MASK, REFERENCE, draw_legend, label_row, legend_of, outline, set_title, show
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.segmentation import majority


def draw_augmentation(data: SegmentationDataModule, num_images: int = 4, num_variants: int = 6) -> Figure:
    """Draw training images with their masks, first as stored and then as augmented in training.

    Args:
        data: The data module, set up for ``fit``.
        num_images: Number of rows: different items, evenly spread over the split.
        num_variants: Number of augmented columns: draws of the same item. Each draw shows the mask of one rater.
    """
    store = data.stores["train"]
    view, num_images = TrainingView(store, data.seed), min(num_images, len(store))
    figure = Figure(figsize=(1.7 * (num_variants + 1), 1.75 * num_images + 0.6), layout="constrained")
    grid = figure.subplots(num_images, num_variants + 1, squeeze=False)
    for row, axes in enumerate(grid):
        index = row * len(store) // num_images
        draws = [view[index, row * num_variants + variant] for variant in range(num_variants)]
        originals = [{name: value for name, value in draws[0].items() if name != "draw"}]  # without a draw: untouched
        batches = [data.on_after_batch_transfer(collate(items), 0) for items in (originals, draws)]
        pairs: list[tuple[Tensor, Tensor]] = [pair for b in batches for pair in zip(b["image"], b["mask"], strict=True)]
        for axis, (image, mask) in zip(axes, pairs, strict=True):
            show(axis, image)
            outline(axis, mask)
        label_row(axes[0], store.ids[index], 1.6, 6)
    for column, axis in enumerate(grid[0]):
        set_title(axis, "as trained" if column else "as stored", 1.6)
    draw_legend(figure, legend_of([(MASK, "mask that is learned from")], data.info.regions))
    return figure


def draw_labels(store: ImageStore, regions: Sequence[str], num_images: int, seed: int) -> Figure:
    """Draw items by label, sampled as in training. Outlines show the masks, which training does not see.

    Args:
        store: Items that have labels.
        regions: Names of the regions of masks.
        num_images: Items of each label.
        seed: Seed of the choice.
    """
    weights = torch.ones(len(store)) if store.weights is None else torch.tensor(store.weights)
    labels = torch.tensor([store.label(index) for index in range(len(store))])
    figure = Figure(figsize=(1.3 * num_images, 3.3), layout="constrained")
    for label, axes in enumerate(figure.subplots(2, num_images, squeeze=False)):
        chance = weights * (labels == label)
        indices = torch.multinomial(chance, num_images, True, generator=keyed_generator(seed, "labels", label)).tolist()
        for axis, index in zip(axes, indices, strict=True):
            show(axis, to_signed(store.image(index)))
            outline(axis, majority(store.masks(index)), REFERENCE)
        label_row(axes[0], ("healthy", "diseased")[label], 1.2)
    draw_legend(figure, legend_of([(REFERENCE, "reference")], regions))
    return figure


def draw_sheet(
    stores: Mapping[str, ImageStore], regions: Sequence[str], num_images: int = 40, columns: int = 10
) -> Figure:
    """Draw a contact sheet: items evenly spread over each split, with every rater's outlines.

    Args:
        stores: The store of each split.
        regions: Names of the regions of masks.
        num_images: Total number of items.
        columns: Items in a row.
    """
    total = sum(len(store) for store in stores.values())
    entries = []
    for split, store in stores.items():
        number = min(max(round(num_images * len(store) / total), 1), len(store))
        indices = [i * len(store) // number for i in range(number)]
        entries += [(f"{split}: {store.ids[index]}", store, index) for index in indices]
    rows = -(-len(entries) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.55 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (title, store, index) in zip(axes, entries, strict=False):
        show(axis, to_signed(store.image(index)))
        for rater in store.masks(index):
            outline(axis, rater, REFERENCE)
        set_title(axis, title, 1.2, 5)
    for axis in list(figure.axes)[len(entries) :]:
        axis.axis("off")
    draw_legend(figure, legend_of([(REFERENCE, "reference, each rater")], regions))
    return figure
