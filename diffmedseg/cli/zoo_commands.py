"""The commands of ``diffmedseg zoo``. Each takes the parsed options."""

import argparse
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmedseg.zoo.registry import CARD, CASES, PICTURE, RUN
from diffmedseg.zoo.source import Source, current_source, filter_entries

if TYPE_CHECKING:
    from diffmedseg.data.base import SegmentationDataModule
    from diffmedseg.models.segmenter import DiffusionSegmenter

_PICTURED = "Picture of its worst, median and best cases."


def list_entries(options: argparse.Namespace) -> None:
    """Print the names of entries, or all their facts as JSON."""
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


def print_table(options: argparse.Namespace) -> None:
    """Print the entries and their scores as a Markdown table."""
    from diffmedseg.zoo.card import markdown_table

    print(markdown_table(current_source().entries()))


def show_card(options: argparse.Namespace) -> None:
    """Print the card of an entry."""
    from diffmedseg.zoo.front_matter import without_front_matter

    print(without_front_matter(current_source().card(options.name)))


def verify_entries(options: argparse.Namespace) -> None:
    """Check entries, and exit with an error if any fails."""
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


def reproduce(options: argparse.Namespace) -> None:
    """Train an entry again, and compare its Dice with the stated interval."""
    from diffmedseg.errors import ZooError
    from diffmedseg.metrics.table import read_cases
    from diffmedseg.runs import newest_run
    from diffmedseg.zoo.checking import agrees

    name, runs = options.name, options.runs
    folder, entry = current_source().verified(name)
    if entry.metrics is None:
        raise ZooError(f"{name} is a recipe, so it has no scores to compare with. Name a trained entry.")
    if not entry.metrics.command:
        raise ZooError(f"{name} was trained by a script of its author: no command trains it again.")
    experiment, root = f"reproduce-{name}", [] if options.root is None else ["--data.root", str(options.root)]
    command = [sys.executable, "-m", "diffmedseg", "fit", "-c", str(folder / RUN), "--runs", str(runs),
               "--experiment", experiment, *root]  # fmt: skip
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


def draw_cases(options: argparse.Namespace) -> None:
    """Draw the worst, median and best test cases of an entry."""
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


def familiarise(options: argparse.Namespace) -> None:
    """Fit the warning about unfamiliar images, and add it to an entry."""
    from diffmedseg.errors import ZooError
    from diffmedseg.evaluation.calibrating import fit_familiarity
    from diffmedseg.zoo.familiarising import add_familiarity

    folder, model, data = _with_data(options)
    data.setup("validate")
    familiarity = fit_familiarity(model, data)
    if familiarity is None:
        raise ZooError(
            f"The network of {folder.name} has no feature maps of an image. The warning is fitted to such maps."
        )
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


def export_run(options: argparse.Namespace) -> None:
    """Make an entry of a finished run."""
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


def rewrite_cards(options: argparse.Namespace) -> None:
    """Write the cards of entries again."""
    from diffmedseg.zoo.changing import rewrite_card

    source = current_source()
    for name in options.names or sorted(source.entries()):
        print(f"Wrote {rewrite_card(source, name) / CARD}")


def retire_entry(options: argparse.Namespace) -> None:
    """Remove an entry that another entry replaces."""
    from diffmedseg.zoo.changing import retire

    retire(current_source(), options.name, options.superseded_by, options.reason)
    print(f"Removed {options.name}: its name now leads to {options.superseded_by}.")


def push_entry(options: argparse.Namespace) -> None:
    """Publish an entry on the Hugging Face Hub."""
    from diffmedseg.zoo.pushing import push

    sizes = push(current_source(), options.name, options.target, options.dry_run, options.private)
    for file, size in sizes.items():
        print(f"{size:>10,} {file}")
    outcome = "Nothing was uploaded to" if options.dry_run else "Uploaded to"
    print(f"{outcome} {options.target}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB")


def make_recipe(options: argparse.Namespace) -> None:
    """Make an entry of an untested configuration."""
    from diffmedseg.zoo.exporting import add_recipe

    print(f"Wrote {add_recipe(options.settings, options.name, options.folder, options.notes, options.trust)}")
