"""``diffmedseg data``: look at data, and at what is kept of it."""

import argparse
import shutil
import sys
from pathlib import Path

from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from diffmedseg.data import SegmentationDataModule
from diffmedseg.data.base import cache_folder
from diffmedseg.data.cache import cache_entries
from diffmedseg.data.labels import OwnLabels
from diffmedseg.data.labels.worth import label_worth
from diffmedseg.data.preview import draw_augmentation, draw_labels
from diffmedseg.data.store import DataError
from diffmedseg.figures import save_figure

_DESCRIPTION = "Look at data. Besides, `diffmedseg data cache` shows or clears what is kept of decoded images."


def augment_preview(*, data: SegmentationDataModule, out: Path, num_images: int = 4, num_variants: int = 6) -> None:
    """Draw images and masks as they are stored and as training gets them.

    Args:
        data: The data module: its yaml, such as experiments/data/isic2017.yaml.
        out: The PNG to write.
        num_images: Rows.
        num_variants: Augmented variants of each image.
    """
    if min(num_images, num_variants) < 1 or out.suffix.lower() != ".png":
        raise DataError(f"num_images {num_images} and num_variants {num_variants} have to be at least 1, {out} a .png.")
    data.prepare_data()
    data.setup("fit")
    save_figure(draw_augmentation(data, num_images, num_variants), out)
    print(f"Wrote {out}")


def labels(*, data: SegmentationDataModule, out: Path | None = None, num_images: int = 8) -> None:
    """Say where image-level labels come from, how many there are, and what gives them away.

    Args:
        data: The data module: its yaml, such as experiments/data/isic2017.yaml.
        out: A PNG of healthy and diseased items to write.
        num_images: Items of each label in it.
    """
    if num_images < 1 or (out is not None and out.suffix.lower() != ".png"):
        raise DataError(f"num_images {num_images} has to be at least 1, {out} a .png.")
    data.prepare_data()
    data.setup("fit")
    recipe = data.label_recipe or OwnLabels()
    store = recipe(data.stores["train"])
    worth = label_worth(store)
    print(f"{type(recipe).__name__}: learned from: {recipe.supervision}.")
    print(f"{worth.healthy} healthy items, of which the masks mark something in {worth.healthy_with_mask:.1%};")
    print(f"{worth.diseased} diseased items, of which they mark nothing in {worth.diseased_without_mask:.1%}.")
    table = Table("Tells the label", "as items are", "as they are drawn", title="Area under the ROC curve")
    for name, (plain, drawn) in worth.separations.items():
        table.add_row(name, f"{plain:.2f}", f"{drawn:.2f}")
    Console().print(table)
    if out is not None:
        save_figure(draw_labels(store, num_images, data.seed), out)
        print(f"Wrote {out}")


def cache(args: list[str]) -> None:
    """Say what the cache of decoded images holds, by data set, or delete it; it is made anew where it is needed."""
    parser = argparse.ArgumentParser("diffmedseg data cache", description=cache.__doc__)
    parser.add_argument("--clear", action="store_true", help="Delete it.")
    clear = parser.parse_args(args).clear
    folder = cache_folder()
    sizes: dict[str, int] = {}
    for entry in cache_entries(folder):
        name = entry.name.lstrip(".").split("-")[0]
        sizes[name] = sizes.get(name, 0) + sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if clear:
            shutil.rmtree(entry)
    for name, size in sorted(sizes.items()):
        print(f"{name:<12} {size / 1e6:8.1f} MB")
    print(f"{'Deleted' if clear else 'Holds'} {sum(sizes.values()) / 1e6:.1f} MB in {folder}.")


def main(args: list[str]) -> None:
    """Run ``diffmedseg data`` with these arguments."""
    if args[:1] == ["cache"]:
        return cache(args[1:])
    try:
        auto_cli(
            {"augment-preview": augment_preview, "labels": labels},
            args=args,
            prog="diffmedseg data",
            description=_DESCRIPTION,
        )
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
