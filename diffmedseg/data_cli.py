"""``diffmedseg data``: look at data, and at what is kept of it."""

import argparse
import json
import shutil
import sys
from pathlib import Path

from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from diffmedseg.data import SegmentationDataModule
from diffmedseg.data.base import cache_folder
from diffmedseg.data.cache import cache_entries
from diffmedseg.data.catalogue import configured, dataset_info, described, markdown_table, read_config
from diffmedseg.data.checking import AREA_EDGES, Check, check_data
from diffmedseg.data.files import first_names
from diffmedseg.data.labels import OwnLabels
from diffmedseg.data.labels.applying import label_split
from diffmedseg.data.labels.worth import label_worth
from diffmedseg.data.lidc_pickle import convert_lidc
from diffmedseg.data.preview import draw_augmentation, draw_labels, draw_sheet
from diffmedseg.data.store import DataError
from diffmedseg.figures import save_figure

_DESCRIPTION = (
    "Look at data. Besides, `diffmedseg data list` names data sets, where to get them and what to cite, `data check` "
    "looks for what is wrong with one, and `data cache` shows or clears what is kept of decoded images."
)


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
    store = label_split(recipe, data.stores["train"])
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


def convert_lidc_pickle(source: Path, out: Path) -> None:
    """Turn data_lidc.pickle into pictures, which DATA=lidc_pickle reads; nothing in it is run.

    Args:
        source: The file.
        out: A new folder.
    """
    print(f"Wrote {convert_lidc(source, out)} slices to {out}")


def check(args: list[str]) -> None:
    """Run ``diffmedseg data check``; exits with 1 where something serious was found."""
    parser = argparse.ArgumentParser(
        "diffmedseg data check",
        description="Look at a data set before training on it: what is there, and what is unreadable, unpaired, twice "
        "there, or in two splits. Exits with 1 where something serious was found.",
    )
    parser.add_argument("name", help="Its yaml, or the name of one in experiments/data.")
    parser.add_argument("dir", type=Path, help="The folder that holds it.")
    parser.add_argument(
        "--against", nargs=2, metavar=("NAME", "DIR"), help="Another data set, no image of which should be in this one."
    )
    parser.add_argument("--json", action="store_true", help="Print everything, with all names, for programs.")
    parser.add_argument("--sheet", type=Path, help="Draw a contact sheet, a PNG.")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="A setting, as folds=3 or layout.brain_mask=null.",
    )
    options = parser.parse_args(args)
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        parser.error(f"--sheet is {options.sheet}; it has to be a .png.")
    settings = dict(one.split("=", 1) for one in options.set)
    data = configured(options.name, options.dir, settings)
    against = configured(options.against[0], options.against[1], {}) if options.against else None
    found = check_data(data, against)
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        _print_check(found)
    if options.sheet is not None and data.stores:
        save_figure(draw_sheet({str(split): store for split, store in data.stores.items()}), options.sheet)
        print(f"Wrote {options.sheet}", file=sys.stderr)
    sys.exit(0 if found.passed else 1)


def list_data(args: list[str]) -> None:
    """List the data sets that DATA names, as README has them; of one, where to get it and what to cite."""
    parser = argparse.ArgumentParser("diffmedseg data list", description=list_data.__doc__)
    parser.add_argument("name", nargs="?", help="One of them.")
    name = parser.parse_args(args).name
    print(markdown_table() if name is None else described(dataset_info(read_config(name))))


def _print_check(found: Check) -> None:
    console = Console(soft_wrap=True)
    table = Table("Split", "Items", "Cases", "Sizes", "Raters", "Empty", "Raters' Dice", title=found.title)
    for split, facts in found.splits.items():
        sizes = ", ".join(list(facts.sizes)[:2]) + (f" and {len(facts.sizes) - 2} more" if len(facts.sizes) > 2 else "")
        table.add_row(
            split,
            str(len(facts.ids)),
            str(len(set(facts.cases))),
            sizes,
            ", ".join(map(str, facts.raters)),
            ", ".join(f"{region} {share:.1%}" for region, share in facts.empty.items()),
            ", ".join(f"{region} {dice:.3f}" for region, dice in facts.agreement.items() if dice is not None),
        )
    console.print(table)
    for split, facts in found.splits.items():
        for region, counts in facts.areas.items():
            parts = (f"{high:.1%}: {count}" for high, count in zip(AREA_EDGES[1:], counts, strict=True) if count)
            console.print(f"{split}, area of {region}, up to: {', '.join(parts)}", highlight=False)
        for channel, values in facts.channels.items():
            text = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            console.print(f"{split}, {channel}: {text}", highlight=False)
    for problem in found.problems:
        some = f" {first_names(problem.names, 5)}" if problem.names else ""
        console.print(
            f"{'PROBLEM' if problem.serious else 'note'}: {problem.text}{some}", highlight=False, markup=False
        )
    console.print("Passed." if found.passed else "Not fit to train on as it is.")


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
        if args[:1] == ["list"]:
            return list_data(args[1:])
        if args[:1] == ["check"]:
            return check(args[1:])
        auto_cli(
            {"augment-preview": augment_preview, "labels": labels, "convert-lidc": convert_lidc_pickle},
            args=args,
            prog="diffmedseg data",
            description=_DESCRIPTION,
        )
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
