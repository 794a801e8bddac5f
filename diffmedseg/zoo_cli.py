"""``diffmedseg zoo``: list, show, verify, draw, export and reproduce pretrained models."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

from diffmedseg import zoo
from diffmedseg.dashboards.artifacts import log_zoo_entry
from diffmedseg.data.configured import build_data
from diffmedseg.metrics.table import read_cases
from diffmedseg.runs import newest_run
from diffmedseg.zoo.card import markdown_table
from diffmedseg.zoo.checking import agrees, verify_entry
from diffmedseg.zoo.loading import load_verified
from diffmedseg.zoo.registry import CARD, CASES, PICTURE, RUN
from diffmedseg.zoo.showing import show_cases


def list_entries() -> None:
    """Print the names of the entries."""
    source = zoo.current_source()
    lines = [f"{name}{' (recipe)' * (entry.status == 'recipe')}" for name, entry in sorted(source.entries().items())]
    print("\n".join(lines) or f"{source.location} has no entries.")


def table() -> None:
    """Print the entries and their scores as README has them."""
    print(markdown_table(zoo.current_source().entries()))


def show(name: str) -> None:
    """Print the card of an entry.

    Args:
        name: Name of the entry.
    """
    print(zoo.current_source().card(name))


def verify(names: list[str] = []) -> None:  # noqa: B006
    """Check hashes, load entries, and segment their stored inputs again.

    Args:
        names: Names of entries, as in `zoo verify A B`; all when empty.
    """
    source = zoo.current_source()
    failed = 0
    for name in names or sorted(source.entries()):
        try:
            difference = verify_entry(source, name)
        except zoo.ZooError as error:
            failed += 1
            print(f"{name}: {error}")
        else:
            print(f"{name}: {'a recipe' if difference is None else f'as stored (difference {difference:.1e})'}")
    if failed:
        sys.exit(f"error: {failed} of the entries are not what they say.")


def reproduce(name: str, *, root: Path | None = None, runs: Path = Path("runs")) -> None:
    """Train an entry again by its own configuration, and compare its Dice with the interval that is stated.

    Args:
        name: Name of the entry.
        root: Folder that holds the data; by default as its run.yaml says.
        runs: Where the run is written.
    """
    folder, entry = zoo.current_source().verified(name)
    if entry.metrics is None:
        raise zoo.ZooError(f"{name} is a recipe: there is nothing to compare with.")
    if not entry.metrics.command:
        raise zoo.ZooError(f"{name} was trained by a script of its author: no command trains it again.")
    experiment, place = f"reproduce-{name}", [] if root is None else ["--data.root", str(root)]
    command = [sys.executable, "-m", "diffmedseg", "fit", "-c", str(folder / RUN), "--runs", str(runs),
               "--experiment", experiment, *place]  # fmt: skip
    print(" ".join(command), flush=True)
    if subprocess.run(command).returncode:
        sys.exit(f"error: the training of {name} did not come to its end; what it said stands above.")
    found, (mean, low, high), within = agrees(entry, read_cases(newest_run(runs / experiment) / CASES))
    if math.isnan(low):
        print(f"Dice {found:.4f}; the entry states {mean:.4f}, of one case: there is no interval to hold it against.")
        return
    print(f"Dice {found:.4f}; the entry states {mean:.4f} ({low:.4f} to {high:.4f}).")
    if not within:
        sys.exit("error: the run's Dice lies outside of the stated interval.")


def cases(name: str, *, root: Path | None = None, out: Path = Path("cases.png"), trust: str = "") -> None:
    """Draw the worst, median and best of the cases that an entry was tested on.

    Args:
        name: Name of the entry.
        root: Folder that holds the data; by default as its run.yaml says.
        out: The PNG that is written.
        trust: Packages whose classes may be imported, too, separated by commas.
    """
    source = zoo.current_source()
    folder, entry = source.verified(name)
    packages = trust.split(",") if trust else []
    model, settings = load_verified(name, folder, entry, packages), yaml.safe_load((folder / RUN).read_text())
    init = settings["data"]["init_args"]
    if root is not None:
        if "root" not in init:
            raise zoo.ZooError(f"{entry.data} are made, not read: leave --root out.")
        init["root"] = str(root)
    if reason := show_cases(model, build_data(settings["data"], packages), read_cases(folder / CASES), out):
        raise zoo.ZooError(f"Nothing is drawn: {reason}.")
    print(f"Wrote {out}")


def export(
    run: Path,
    *,
    name: str,
    folder: Path | None = None,
    half: bool = True,
    notes: str = "",
    pictures: bool = True,
    trust: str = "",
) -> None:
    """Make a zoo entry of a finished run; where that was logged to W&B, an artifact, too.

    Args:
        run: The run's folder, such as runs/medsegdiff-synthetic/version_0.
        name: Name of the entry: model_data.tag.
        folder: The zoo; by default $DIFFMEDSEG_ZOO, else the repository's.
        half: Store float16.
        notes: What the card should say besides.
        pictures: Show its worst cases, where the data's licence lets everybody hand images on.
        trust: Packages whose classes may be imported, too, separated by commas.
    """
    entry = zoo.export(run, name, folder, half, notes, pictures, trust.split(",") if trust else ())
    log_zoo_entry(run, entry)
    print(f"Wrote {entry}")
    if not (entry / PICTURE).is_file():
        print(f"{entry / CARD} says why it has no picture of its worst cases.")


def recipe(settings: Path, *, name: str, folder: Path | None = None, notes: str = "") -> None:
    """Make a zoo entry of a configuration that nobody has run yet, without weights or numbers.

    Args:
        settings: File of all settings of a run, as `diffmedseg fit ... --print_config` prints them.
        name: Name of the entry: model_data.tag.
        folder: The zoo; by default $DIFFMEDSEG_ZOO, else the repository's.
        notes: What the card should say besides.
    """
    print(f"Wrote {zoo.add_recipe(settings, name, folder, notes)}")


def main(args: list[str]) -> None:
    """Run ``diffmedseg zoo`` with these arguments."""
    if args[:1] == ["verify"] and not any(name.startswith("-") for name in args):
        args = ["verify", f"--names={json.dumps(args[1:])}"]  # jsonargparse takes what may be left out by option alone
    commands: dict[str, Any] = {
        "list": list_entries,
        "table": table,
        "show": show,
        "verify": verify,
        "cases": cases,
        "export": export,
        "recipe": recipe,
        "reproduce": reproduce,
    }
    try:
        auto_cli(commands, args=args, prog="diffmedseg zoo", as_positional=True)
    except zoo.ZooError as error:
        sys.exit(f"error: {error}")
