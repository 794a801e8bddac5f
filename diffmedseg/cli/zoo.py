"""``diffmedseg zoo`` and ``export``: pretrained models."""

import argparse
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from diffmedseg.cli.parsing import Parser, add_trust, file_ending, report_errors
from diffmedseg.zoo.registry import CARD, CASES, PICTURE, RUN, StorageType
from diffmedseg.zoo.source import Source, current_source, filter_entries

if TYPE_CHECKING:
    from diffmedseg.data.base import SegmentationDataModule
    from diffmedseg.models.segmenter import DiffusionSegmenter


def main(args: list[str]) -> None:
    """Run ``diffmedseg zoo``."""
    options = _parser().parse_args(args)
    with report_errors():
        options.run(options)


def export_command(args: list[str]) -> None:
    """Run ``diffmedseg export``."""
    parser = Parser("diffmedseg export", f"{_EXPORT} With --format onnx: graphs; `--format onnx --help` says more.")
    _add_export(parser)
    options = parser.parse_args(args)
    with report_errors():
        _export(options)


_PICTURED = "Picture of its worst, median and best cases."
_EXPORT = "Make a zoo entry of a finished run, and a W&B artifact if the run was logged to W&B."


def _parser() -> Parser:
    parser = Parser("diffmedseg zoo", "Pretrained models. DIFFMEDSEG_ZOO names another zoo: a folder or an address.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: object, summary: str) -> argparse.ArgumentParser:
        own: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
        own.set_defaults(run=run)
        return own

    one = add("list", _list, "List the entries, or only the entries for a data set or a task.")
    one.add_argument("--data", help="Part of the name of a data set, such as isic.")
    one.add_argument("--task", help="Part of the name of a region, such as lesion.")
    one.add_argument("--json", action="store_true", help="Print all facts as JSON, for programs.")
    add("table", _table, "Print the entries and their scores as a Markdown table.")
    add("show", _show, "Print the card of an entry.").add_argument("name", help="Name of the entry.")

    one = add("verify", _verify, "Check hashes, load entries, and segment their stored inputs again.")
    one.add_argument("names", nargs="*", help="Names of entries. Default: all.")
    add_trust(one)

    one = add("cases", _cases, "Draw the worst, median and best test cases of an entry.")
    one.add_argument("name", help="Name of the entry.")
    one.add_argument("--root", type=Path, help="Folder of the data. Default: the folder in run.yaml.")
    one.add_argument(
        "--out", type=file_ending(".png"), default=Path("cases.png"), help="PNG to write. Default: cases.png."
    )
    one.add_argument(
        "--add", action="store_true", help="Add the picture to the entry, if the licence of the data allows it."
    )
    add_trust(one)

    one = add("reproduce", _reproduce, "Train an entry again, and compare its Dice with the interval of the entry.")
    one.add_argument("name", help="Name of the entry.")
    one.add_argument("--root", type=Path, help="Folder of the data. Default: the folder in run.yaml.")
    one.add_argument("--runs", type=Path, default=Path("runs"), help="Folder of the run. Default: runs.")

    one = add("familiarise", _familiarise, "Fit an entry's warning of unfamiliar images to its validation cases.")
    one.add_argument("name", help="Name of the entry.")
    one.add_argument("--root", type=Path, help="Folder of the data. Default: the folder in run.yaml.")
    add_trust(one)

    _add_export(add("export", _export, _EXPORT))

    one = add("card", _card, "Write the cards of entries again, with the current template.")
    one.add_argument("names", nargs="*", help="Names of entries. Default: all.")

    one = add("retire", _retire, "Remove an entry that another entry replaces. Its name then leads to the other entry.")
    one.add_argument("name", help="Name of the entry to remove.")
    one.add_argument("--superseded_by", required=True, help="Name of the entry that replaces it.")
    one.add_argument("--reason", default="", help="Why, in one sentence.")

    one = add("push", _push, "Publish an entry as a repository of the Hugging Face Hub.")
    one.add_argument("name", help="Name of the entry.")
    one.add_argument("target", metavar="hf://OWNER/NAME", help="The repository. A new one is made if needed.")
    one.add_argument("--dry_run", action="store_true", help="Print what would be uploaded, and upload nothing.")
    one.add_argument("--private", action="store_true", help="Make a new repository private.")

    one = add("recipe", _recipe, "Make an entry of an untested configuration, without weights and scores.")
    one.add_argument("settings", type=Path, help="File of all settings of a run, from `train ... --print_config`.")
    _add_name(one)
    add_trust(one)
    return parser


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="Name of the entry: model_data.tag.")
    parser.add_argument("--folder", type=Path, help="The zoo. Default: $DIFFMEDSEG_ZOO, else the repository's.")
    parser.add_argument("--notes", default="", help="Further text for the card.")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="The run's folder.")
    _add_name(parser)
    parser.add_argument(
        "--dtype",
        choices=get_args(StorageType),
        default="float16",
        help="Type of the stored parameters. float16, the default, is refused if it changes the model's output.",
    )
    parser.add_argument("--version", default="1.0.0", help="Version of the entry; a higher one replaces the entry.")
    parser.add_argument("--change", default="First version.", help="What is new in this version, in one line.")
    parser.add_argument(
        "--pictures", type=_boolean, default=True, help="Draw the worst cases, if the licence of the data allows it."
    )
    add_trust(parser)


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return text.lower() == "true"


def _list(options: argparse.Namespace) -> None:
    source = current_source()
    entries = filter_entries(source.entries(), options.data, options.task)
    if options.json:
        print(json.dumps([{"name": name, **_finite(asdict(entry))} for name, entry in entries.items()], indent=1))
        return
    lines = [f"{name}{' (recipe)' * (entry.status == 'recipe')}" for name, entry in sorted(entries.items())]
    print("\n".join(lines) or f"{source.location} has no entries.")


def _finite(value: Any) -> Any:  # noqa: ANN401  what JSON can hold
    """Replace numbers that JSON cannot hold (NaN, infinity) by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(options: argparse.Namespace) -> None:
    from diffmedseg.zoo.card import markdown_table

    print(markdown_table(current_source().entries()))


def _show(options: argparse.Namespace) -> None:
    from diffmedseg.zoo.front_matter import without_front_matter

    print(without_front_matter(current_source().card(options.name)))


def _verify(options: argparse.Namespace) -> None:
    from diffmedseg.errors import ZooError
    from diffmedseg.zoo.checking import verify_entry

    source, failed = current_source(), 0
    for name in options.names or sorted(source.entries()):
        try:
            difference = verify_entry(source, name, options.trust)
        except ZooError as error:
            failed += 1
            print(f"{name}: {error}")
        else:
            print(f"{name}: {'a recipe' if difference is None else f'as stored (difference {difference:.1e})'}")
    if failed:
        sys.exit(f"error: {failed} of the entries could not be verified.")


def _reproduce(options: argparse.Namespace) -> None:
    from diffmedseg.errors import ZooError
    from diffmedseg.metrics.table import read_cases
    from diffmedseg.runs import newest_run
    from diffmedseg.zoo.checking import agrees

    name, runs = options.name, options.runs
    folder, entry = current_source().verified(name)
    if entry.metrics is None:
        raise ZooError(f"{name} is a recipe: there is nothing to compare with.")
    if not entry.metrics.command:
        raise ZooError(f"{name} was trained by a script of its author: no command trains it again.")
    experiment, place = f"reproduce-{name}", [] if options.root is None else ["--data.root", str(options.root)]
    command = [sys.executable, "-m", "diffmedseg", "fit", "-c", str(folder / RUN), "--runs", str(runs),
               "--experiment", experiment, *place]  # fmt: skip
    print(" ".join(command), flush=True)
    if subprocess.run(command).returncode:
        sys.exit(f"error: the training of {name} failed; see its messages above.")
    dice, (mean, low, high), within = agrees(entry, read_cases(newest_run(runs / experiment) / CASES))
    if math.isnan(low):
        print(f"Dice {dice:.4f}; the entry states {mean:.4f} for one case, without an interval to compare with.")
        return
    print(f"Dice {dice:.4f}; the entry states {mean:.4f} ({low:.4f} to {high:.4f}).")
    if not within:
        sys.exit("error: the run's Dice lies outside of the stated interval.")


def _cases(options: argparse.Namespace) -> None:
    from diffmedseg.errors import ZooError
    from diffmedseg.metrics.table import read_cases
    from diffmedseg.zoo.changing import replace_files
    from diffmedseg.zoo.showing import show_cases

    folder, model, data = _with_data(options)
    if options.add and not data.info.redistributable:
        raise ZooError(
            f"The licence of {data.info.title} ({data.info.licence}) does not allow everybody to redistribute its "
            "images. Leave --add out."
        )
    if reason := show_cases(model, data, read_cases(folder / CASES), options.out):
        raise ZooError(f"Nothing is drawn: {reason}.")
    print(f"Wrote {options.out}")
    if options.add:
        print(f"Wrote {replace_files(current_source(), folder.name, {PICTURE: options.out.read_bytes()}, _PICTURED)}")


def _familiarise(options: argparse.Namespace) -> None:
    from diffmedseg.errors import ZooError
    from diffmedseg.evaluation.calibrating import fit_familiarity
    from diffmedseg.zoo.familiarising import add_familiarity

    folder, model, data = _with_data(options)
    data.setup("validate")
    familiarity = fit_familiarity(model, data)
    if familiarity is None:
        raise ZooError(f"The network of {folder.name} has no feature maps of an image, which the warning is fitted to.")
    print(f"Wrote {add_familiarity(current_source(), folder.name, familiarity)}")


def _with_data(options: argparse.Namespace) -> "tuple[Path, DiffusionSegmenter, SegmentationDataModule]":
    """Return the folder of a verified entry, its model, and its data, in the folder ``--root`` if given."""
    from diffmedseg.data.configured import build_data
    from diffmedseg.errors import ZooError
    from diffmedseg.models.loading import read_settings
    from diffmedseg.zoo.loading import load_verified

    folder, entry = current_source().verified(options.name)
    model = load_verified(options.name, folder, entry, options.trust)
    settings = read_settings(folder / RUN, ["data"])
    init = settings["data"]["init_args"]
    if options.root is not None:
        if "root" not in init:
            raise ZooError(f"{entry.data} are generated, not read from a folder. Leave --root out.")
        init["root"] = str(options.root)
    return folder, model, build_data(settings["data"], options.trust)


def _export(options: argparse.Namespace) -> None:
    from diffmedseg.dashboards.artifacts import log_zoo_entry
    from diffmedseg.zoo.exporting import export

    entry = export(
        options.run_folder,
        options.name,
        options.folder,
        options.dtype,
        options.notes,
        options.pictures,
        options.trust,
        options.version,
        options.change,
    )
    log_zoo_entry(options.run_folder, entry)
    print(f"Wrote {entry} ({sum(path.stat().st_size for path in entry.iterdir()) / 1e6:.2f} MB)")
    if storage := Source(entry.parent).entries()[entry.name].storage:
        print(storage.summary())
    if not (entry / PICTURE).is_file():
        print(f"{entry / CARD} says why it has no picture of its worst cases.")


def _card(options: argparse.Namespace) -> None:
    from diffmedseg.zoo.changing import rewrite_card

    source = current_source()
    for name in options.names or sorted(source.entries()):
        print(f"Wrote {rewrite_card(source, name) / CARD}")


def _retire(options: argparse.Namespace) -> None:
    from diffmedseg.zoo.changing import retire

    retire(current_source(), options.name, options.superseded_by, options.reason)
    print(f"Removed {options.name}: its name now leads to {options.superseded_by}.")


def _push(options: argparse.Namespace) -> None:
    from diffmedseg.zoo.pushing import push

    sizes = push(current_source(), options.name, options.target, options.dry_run, options.private)
    for file, size in sizes.items():
        print(f"{size:>10,} {file}")
    done = "Nothing was uploaded to" if options.dry_run else "Uploaded to"
    print(f"{done} {options.target}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB")


def _recipe(options: argparse.Namespace) -> None:
    from diffmedseg.zoo.exporting import add_recipe

    print(f"Wrote {add_recipe(options.settings, options.name, options.folder, options.notes, options.trust)}")
