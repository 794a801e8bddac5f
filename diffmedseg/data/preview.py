"""A picture of what training sees: items before and after augmentation."""

from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.store import TrainingView, collate
from diffmedseg.figures import outline, show


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
