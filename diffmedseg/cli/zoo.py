"""``diffmedseg zoo`` and ``export``: pretrained models."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from diffmedseg.cli.parsing import Parser, add_trust, file_ending, report_errors
from diffmedseg.cli.zoo_commands import (
    draw_cases,
    export_run,
    familiarise,
    list_entries,
    make_recipe,
    print_table,
    push_entry,
    reproduce,
    retire_entry,
    rewrite_cards,
    show_card,
    verify_entries,
)
from diffmedseg.zoo.registry import StorageType

_EXPORT = "Make a zoo entry of a finished run, and a W&B artifact if the run was logged to W&B."

#: Function that adds a command. It takes the command's name, function and summary.
AddCommand = Callable[[str, object, str], argparse.ArgumentParser]


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
        export_run(options)


def _parser() -> Parser:
    parser = Parser("diffmedseg zoo", "Pretrained models. DIFFMEDSEG_ZOO names another zoo: a folder or an address.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: object, summary: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        return command

    _add_reading_commands(add)
    _add_changing_commands(add)
    return parser


def _add_reading_commands(add: AddCommand) -> None:
    """Add the commands that read entries."""
    command = add("list", list_entries, "List the entries, or only the entries for a data set or a task.")
    command.add_argument("--data", help="Part of the name of a data set, such as isic.")
    command.add_argument("--task", help="Part of the name of a region, such as lesion.")
    command.add_argument("--json", action="store_true", help="Print all facts as JSON, for programs.")
    add("table", print_table, "Print the entries and their scores as a Markdown table.")
    add("show", show_card, "Print the card of an entry.").add_argument("name", help="Name of the entry.")

    command = add("verify", verify_entries, "Check hashes, load entries, and segment their stored inputs again.")
    command.add_argument("names", nargs="*", help="Names of entries. Default: all.")
    add_trust(command)

    command = add("cases", draw_cases, "Draw the worst, median and best test cases of an entry.")
    command.add_argument("name", help="Name of the entry.")
    command.add_argument("--root", type=Path, help="Folder of the data. Default: the folder in run.yaml.")
    command.add_argument(
        "--out", type=file_ending(".png"), default=Path("cases.png"), help="PNG to write. Default: cases.png."
    )
    command.add_argument(
        "--add", action="store_true", help="Add the picture to the entry, if the licence of the data allows it."
    )
    add_trust(command)

    command = add("reproduce", reproduce, "Train an entry again, and compare its Dice with the interval of the entry.")
    command.add_argument("name", help="Name of the entry.")
    command.add_argument("--root", type=Path, help="Folder of the data. Default: the folder in run.yaml.")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="Folder of the run. Default: runs.")


def _add_changing_commands(add: AddCommand) -> None:
    """Add the commands that make, change, remove and publish entries."""
    command = add("familiarise", familiarise, "Fit an entry's warning of unfamiliar images to its validation cases.")
    command.add_argument("name", help="Name of the entry.")
    command.add_argument("--root", type=Path, help="Folder of the data. Default: the folder in run.yaml.")
    add_trust(command)

    _add_export(add("export", export_run, _EXPORT))

    command = add("card", rewrite_cards, "Write the cards of entries again, with the current template.")
    command.add_argument("names", nargs="*", help="Names of entries. Default: all.")

    command = add(
        "retire", retire_entry, "Remove an entry that another entry replaces. Its name then leads to the other entry."
    )
    command.add_argument("name", help="Name of the entry to remove.")
    command.add_argument("--superseded_by", required=True, help="Name of the entry that replaces it.")
    command.add_argument("--reason", default="", help="Why, in one sentence.")

    command = add("push", push_entry, "Publish an entry as a repository of the Hugging Face Hub.")
    command.add_argument("name", help="Name of the entry.")
    command.add_argument("target", metavar="hf://OWNER/NAME", help="The repository. A new one is made if needed.")
    command.add_argument("--dry_run", action="store_true", help="Print what would be uploaded, and upload nothing.")
    command.add_argument("--private", action="store_true", help="Make a new repository private.")

    command = add("recipe", make_recipe, "Make an entry of an untested configuration, without weights and scores.")
    command.add_argument("settings", type=Path, help="File of all settings of a run, from `train ... --print_config`.")
    _add_name(command)
    add_trust(command)


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
