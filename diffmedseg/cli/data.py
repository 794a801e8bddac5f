"""``diffmedseg data``: inspect data sets and manage the cache."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffmedseg.cli.parsing import Parser, file_ending, positive_integer, report_errors
from diffmedseg.experiments import data_config, data_root

if TYPE_CHECKING:
    from diffmedseg.data import SegmentationDataModule
    from diffmedseg.data.checking import Check


def main(args: list[str]) -> None:
    """Run ``diffmedseg data``."""
    options = _parser().parse_args(args)
    with report_errors():
        options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser("diffmedseg data", "Inspect data sets.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: object, summary: str) -> argparse.ArgumentParser:
        subparser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
        subparser.set_defaults(run=run)
        return subparser

    command = add("list", _list, "List the data sets, or show where to get one and what to cite.")
    command.add_argument("name", nargs="?", help="Name of a data set.")

    command = add(
        "check",
        _check,
        "Check a data set before training: count its content, and find files that are unreadable, unpaired, duplicated "
        "or in two splits. The exit code is 1 if a fault is serious.",
    )
    add_data(command)
    command.add_argument(
        "--against", nargs=2, metavar=("NAME", "DIR"), help="Another data set, which must share no image with this one."
    )
    command.add_argument("--json", action="store_true", help="Print the full result as JSON, for programs.")
    command.add_argument("--sheet", type=file_ending(".png"), metavar="PNG", help="Draw a contact sheet to this file.")

    command = add("augment-preview", _augment_preview, "Draw images and masks as stored and as augmented in training.")
    add_data(command)
    command.add_argument("--out", type=file_ending(".png"), required=True, help="PNG to write.")
    command.add_argument("--num_images", type=positive_integer, default=4, help="Rows. Default: 4.")
    command.add_argument(
        "--num_variants", type=positive_integer, default=6, help="Augmented variants of each. Default: 6."
    )

    command = add("labels", _labels, "Count image-level labels, show their source, and measure label leakage.")
    add_data(command)
    command.add_argument("--out", type=file_ending(".png"), help="PNG of healthy and diseased items to write.")
    command.add_argument(
        "--num_images", type=positive_integer, default=8, help="Items of each label in it. Default: 8."
    )

    command = add("convert", _convert, "Convert a data set to a raw data set of nnU-Net v2, with the same splits.")
    add_data(command)
    command.add_argument("--out", type=Path, required=True, help="New folder, called Dataset<3 digits>_<name>.")
    command.add_argument(
        "--raters",
        choices=["majority"],
        help="How to reduce several raters to one label map. majority: the majority mask; the first of two raters.",
    )

    command = add(
        "plan", _plan, "Measure a data set, and propose image size, patch, context and batch for this machine."
    )
    add_data(command)
    command.add_argument("--out", type=Path, help="YAML file to write, for `diffmedseg train MODEL DATA -c FILE`.")
    command.add_argument("--num_cases", type=positive_integer, default=40, help="Training cases measured. Default: 40.")

    command = add("convert-lidc", _convert_lidc, "Convert data_lidc.pickle to pictures, for the data set lidc_pickle.")
    command.add_argument("source", type=Path, help="The file. Code in it is not run.")
    command.add_argument("out", type=Path, help="New folder to write.")

    command = add("cache", _cache, "Show the size of the cache of decoded images by data set, or delete the cache.")
    command.add_argument("--clear", action="store_true", help="Delete the cache. It is made again when needed.")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the name of a data set, its folder and its settings."""
    parser.add_argument("name", help="Name of a data set (`diffmedseg data list`), or a yaml file of your own.")
    parser.add_argument(
        "dir",
        nargs="?",
        type=Path,
        help="Folder of the data set. Default: $DIFFMEDSEG_DATA/NAME, else the folder in its yaml.",
    )
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="KEY=VALUE", help="Setting, such as folds=3."
    )
    parser.add_argument("--data.root", dest="dir", type=Path, help="Same as DIR.")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def open_data(options: argparse.Namespace) -> "SegmentationDataModule":
    """Build the data module that the options of :func:`add_data` name."""
    from diffmedseg.data.catalogue import configured

    return configured(options.name, data_root(options.name, options.dir), dict(options.set))


def _list(options: argparse.Namespace) -> None:
    from diffmedseg.data.catalogue import dataset_info, described, markdown_table

    print(markdown_table() if options.name is None else described(dataset_info(data_config(options.name))))


def _check(options: argparse.Namespace) -> None:
    from diffmedseg.data.catalogue import configured
    from diffmedseg.data.checking import check_data
    from diffmedseg.data.preview import draw_sheet
    from diffmedseg.figures import save_figure

    data = open_data(options)
    against = configured(options.against[0], options.against[1], {}) if options.against else None
    check = check_data(data, against)
    if options.json:
        print(json.dumps(check.as_dict(), indent=1))
    else:
        _print_check(check)
    if options.sheet is not None and data.stores:
        save_figure(
            draw_sheet({str(split): store for split, store in data.stores.items()}, data.info.regions), options.sheet
        )
        print(f"Wrote {options.sheet}", file=sys.stderr)
    sys.exit(0 if check.passed else 1)


def _augment_preview(options: argparse.Namespace) -> None:
    from diffmedseg.data.preview import draw_augmentation
    from diffmedseg.figures import save_figure

    data = open_data(options)
    data.prepare_data()
    data.setup("fit")
    save_figure(draw_augmentation(data, options.num_images, options.num_variants), options.out)
    print(f"Wrote {options.out}")


def _labels(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from diffmedseg.data.labels import OwnLabels
    from diffmedseg.data.labels.applying import label_split
    from diffmedseg.data.labels.worth import label_leakage
    from diffmedseg.data.preview import draw_labels
    from diffmedseg.figures import save_figure

    data = open_data(options)
    data.prepare_data()
    data.setup("fit")
    recipe = data.label_recipe or OwnLabels()
    store = label_split(recipe, data.stores["train"])
    worth = label_leakage(store)
    print(f"{type(recipe).__name__}: learned from: {recipe.supervision}.")
    print(f"{worth.healthy} healthy items; the mask is not empty in {worth.healthy_with_mask:.1%}.")
    print(f"{worth.diseased} diseased items; the mask is empty in {worth.diseased_without_mask:.1%}.")
    table = Table("Predictor of the label", "all items", "as drawn in training", title="Area under the ROC curve")
    for name, (uniform, weighted) in worth.separations.items():
        table.add_row(name, f"{uniform:.2f}", f"{weighted:.2f}")
    Console().print(table)
    if options.out is not None:
        save_figure(draw_labels(store, data.info.regions, options.num_images, data.seed), options.out)
        print(f"Wrote {options.out}")


def _convert(options: argparse.Namespace) -> None:
    from diffmedseg.data.nnunet.writing import write_nnunet
    from diffmedseg.files import expand_home

    data, out = open_data(options), expand_home(options.out)
    facts = write_nnunet(data, out, options.raters)
    if data.info.raters > 1:
        fused = "the mask of the first rater" if data.info.raters == 2 else "the majority mask"
        print(f"Label maps have {fused} of {data.info.raters} raters.")
    labels = ", ".join(f"{name} {value}" for name, value in facts["labels"].items())
    print(f"Wrote {facts['numTraining']} cases to train on and {len(data.split_cases('test'))} to test to {out}.")
    print(f"Labels: {labels}.")
    print("For the same split in nnU-Net, copy splits_final.json to its folder of preprocessed data.")


def _plan(options: argparse.Namespace) -> None:
    from diffmedseg.atomic import write_whole
    from diffmedseg.data.measured import measure
    from diffmedseg.data.planning import plan

    data = open_data(options)
    text = plan(measure(data, options.num_cases)).as_yaml()
    print(text, end="")
    if options.out is not None:
        write_whole(options.out, lambda path: path.write_text(text, encoding="utf-8"))
        print(f"Wrote {options.out}", file=sys.stderr)


def _convert_lidc(options: argparse.Namespace) -> None:
    from diffmedseg.data.lidc_pickle import convert_lidc

    print(f"Wrote {convert_lidc(options.source, options.out)} slices to {options.out}")


def _cache(options: argparse.Namespace) -> None:
    from diffmedseg.atomic import temporary_for
    from diffmedseg.data.base import cache_folder
    from diffmedseg.data.cache import cache_entries

    folder = cache_folder()
    sizes: dict[str, int] = {}
    for entry in cache_entries(folder):
        name = (temporary_for(entry) or entry.name).split("-")[0]
        sizes[name] = sizes.get(name, 0) + sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if options.clear:
            shutil.rmtree(entry)
    for name, size in sorted(sizes.items()):
        print(f"{name:<12} {size / 1e6:8.1f} MB")
    print(f"{'Deleted' if options.clear else 'Holds'} {sum(sizes.values()) / 1e6:.1f} MB in {folder}.")


def _print_check(check: "Check") -> None:
    from rich.console import Console
    from rich.table import Table

    from diffmedseg.data.checking import AREA_EDGES
    from diffmedseg.wording import first_names

    console = Console(soft_wrap=True)
    table = Table("Split", "Items", "Cases", "Sizes", "Raters", "Empty", "Raters' Dice", title=check.title)
    for split, facts in check.splits.items():
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
    for split, facts in check.splits.items():
        for region, counts in facts.areas.items():
            parts = (f"{high:.1%}: {count}" for high, count in zip(AREA_EDGES[1:], counts, strict=True) if count)
            console.print(f"{split}, area of {region}, up to: {', '.join(parts)}", highlight=False)
        for channel, values in facts.channels.items():
            text = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            console.print(f"{split}, {channel}: {text}", highlight=False)
    for problem in check.problems:
        names = f" {first_names(problem.names, 5)}" if problem.names else ""
        console.print(
            f"{'PROBLEM' if problem.serious else 'note'}: {problem.text}{names}", highlight=False, markup=False
        )
    console.print("Passed." if check.passed else "Failed: fix the problems before training.")
