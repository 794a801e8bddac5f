"""``diffmedseg benchmark``: score samples of any method by a fixed protocol."""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmedseg.atomic import write_alone
from diffmedseg.cli.data import add_data, open_data
from diffmedseg.cli.parsing import Parser, positive_integer, report_errors
from diffmedseg.errors import DataError
from diffmedseg.wording import count

if TYPE_CHECKING:
    from rich.table import Table

    from diffmedseg.evaluation.ambiguity import AmbiguityBenchmark
    from diffmedseg.evaluation.ambiguity_result import Ambiguity

_COLUMNS = {"samples": "Samples", "raters": "Raters"}
_LIST = ("file", "patient", "height", "width")
_WIDTH = 112  # characters: rich cuts numbers in a narrower terminal


def main(args: list[str]) -> None:
    """Run ``diffmedseg benchmark``."""
    options = _parser().parse_args(args)
    with report_errors():
        options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser("diffmedseg benchmark", "Score samples of any method by a fixed protocol.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    ambiguity: argparse.ArgumentParser = commands.add_parser(
        "ambiguity",
        help="Score samples on a data set with several raters.",
        description="Score samples on a data set with several raters: GED, matched IoU, Dice of the fused mask, "
        "calibration, with 95 % intervals over patients. The table also scores each rater against the other raters.",
        epilog="`diffmedseg evaluate RUN --model.num_samples 100 --samples_folder FOLDER` writes the samples of a run.",
    )
    ambiguity.set_defaults(run=_ambiguity)
    add_data(ambiguity)
    ambiguity.add_argument(
        "--samples",
        type=Path,
        metavar="FOLDER",
        help="Folder of samples at native size. Each image needs ID.npz, with an array `samples` of shape (S, H, W) or "
        "(S, K, H, W) in {0, 1}; or a folder ID with sample-00.png, sample-01.png and so on, in {0, 255}. Without this "
        "option, only raters are scored.",
    )
    ambiguity.add_argument("--list", type=Path, metavar="CSV", help="Write the expected file names, and score nothing.")
    ambiguity.add_argument("--split", choices=("train", "val", "test"), default="test", help="Default: test.")
    ambiguity.add_argument(
        "--track",
        choices=("all", "nonempty"),
        default="all",
        help="all (the default): all images, and a second table of the images in which every rater has foreground. "
        "nonempty: only the latter; other images need no samples.",
    )
    ambiguity.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="New folder for metrics.json and the tables of cases, for `diffmedseg compare`.",
    )
    ambiguity.add_argument(
        "--worst",
        type=positive_integer,
        metavar="N",
        help="Draw the N images of each track whose samples are farthest from the raters (unbiased GED) to worst.png "
        "in --output. Needs --samples with at least two samples per image.",
    )
    return parser


def _ambiguity(options: argparse.Namespace) -> None:
    from rich.console import Console

    from diffmedseg.evaluation.ambiguity import AmbiguityBenchmark
    from diffmedseg.files import expand_home

    output, samples, names = (
        None if path is None else expand_home(path) for path in (options.output, options.samples, options.list)
    )
    _check_paths(output, samples, names)
    if options.worst is not None and (output is None or samples is None):
        raise DataError("--worst draws samples into the output folder: give --samples and --output, too.")
    benchmark = AmbiguityBenchmark(open_data(options), options.split, options.track)
    if names is not None:
        _write_names(benchmark, names)
        return
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # fails now and not after minutes of scoring
    ambiguity = benchmark.score(samples)
    summary = ambiguity.as_dict()
    console = Console()
    console = Console(width=max(console.width, _WIDTH))
    for track in summary["tracks"]:
        console.print(_table(track, summary))
    if ambiguity.left_out:
        number, scores = count(ambiguity.num_samples or 0, "sample"), ", ".join(ambiguity.left_out)
        print(f"Left out, since they need more than {number} per image: {scores}.")
    if output is not None:
        _write(ambiguity, summary, output)
        if options.worst is not None and samples is not None:
            _draw(benchmark, ambiguity, samples, options.worst, output)
        print(f"Wrote {output}", file=sys.stderr)


def _check_paths(output: Path | None, samples: Path | None, names: Path | None) -> None:
    """Refuse an output folder with files or among the samples, and a list in place of another file."""
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} is not an empty folder. Name a new folder by --output.")
    if output is not None and samples is not None and output.resolve().is_relative_to(samples.resolve()):
        raise DataError(f"{output} is in the folder of samples, {samples}. Name a folder outside of it by --output.")
    if names is None or not names.is_file():
        return
    with names.open(encoding="utf-8", errors="replace") as file:
        if file.readline().strip() != ",".join(_LIST):
            raise DataError(f"{names} is not a list of this command. --list writes a file: name a new one.")


def _write_names(benchmark: "AmbiguityBenchmark", path: Path) -> None:
    from diffmedseg.evaluation.sample_folders import sample_file

    rows = benchmark.expected()

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_LIST)
            writer.writerows((sample_file(image), *columns) for image, *columns in rows)

    write_alone(path, save)
    print(f"Wrote {count(len(rows), 'name')} to {path}.")


def _write(ambiguity: "Ambiguity", summary: dict[str, Any], folder: Path) -> None:
    """Write metrics.json and the tables of cases: the first track into the folder, other tracks into subfolders."""
    from diffmedseg.metrics.table import CASES, write_cases

    for number, track in enumerate(ambiguity.raters):
        track_folder = folder / track if number else folder
        track_folder.mkdir(parents=True, exist_ok=True)
        if track in ambiguity.samples:
            write_cases(ambiguity.samples[track].rows, track_folder / CASES)
        write_cases(ambiguity.raters[track].rows, track_folder / "raters" / CASES)
    text = json.dumps(summary, indent=1)
    write_alone(folder / "metrics.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _draw(benchmark: "AmbiguityBenchmark", ambiguity: "Ambiguity", samples: Path, number: int, folder: Path) -> None:
    """Draw the worst images of each track beside the tables of the track."""
    from diffmedseg.figures import save_figure

    if "ged_unbiased" in ambiguity.left_out:
        print("No worst.png: one sample per image has no unbiased GED.", file=sys.stderr)
        return
    for track, scored in ambiguity.samples.items():
        track_folder = folder if track == next(iter(ambiguity.samples)) else folder / track
        save_figure(benchmark.draw_worst(scored, samples, number), track_folder / "worst.png")


def _table(track: str, summary: dict[str, Any]) -> "Table":
    """Return the table of a track."""
    from rich.markup import escape
    from rich.table import Table

    results, samples = summary["tracks"][track], summary["samples_per_image"]
    images, patients = count(results["images"], "image"), count(results["patients"], "patient")
    number = "no samples" if samples is None else f"{count(samples, 'sample')} per image"
    raters = " or ".join(map(str, summary["raters"]))
    title = f"{summary['data']}, {summary['split']}: " + ("all images" if track == "all" else "no rater empty")
    caption = f"{images} of {patients}, {raters} raters, {number}; mean over images, 95 % intervals over patients\n"
    caption += "Raters: each rater's mask against the other raters"
    lines = [name for name in _COLUMNS if name in results]
    table = Table(title=escape(title), caption=caption, caption_justify="left")
    table.add_column("Score", no_wrap=True)
    for name in lines:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
        table.add_column("95 % interval", justify="right", no_wrap=True)
    regions = results[lines[0]]
    for region in regions:
        of_region = f", {region}" if len(regions) > 1 else ""
        for score in dict.fromkeys(score for name in lines for score in results[name][region]):
            cells = [cell for name in lines for cell in _cells(results[name][region].get(score))]
            table.add_row(escape(_title(score) + of_region), *cells)
    return table


def _cells(entry: dict[str, float] | None) -> tuple[str, str]:
    if entry is None or entry["mean"] is None:
        return "", ""
    return f"{entry['mean']:.4f}", "" if entry["low"] is None else f"{entry['low']:.4f} to {entry['high']:.4f}"


def _title(score: str) -> str:
    from diffmedseg.evaluation.summary import SET_TITLES
    from diffmedseg.metrics.scores import LOWER_IS_BETTER, TITLES

    name = score.removesuffix("_bias")
    title = (TITLES | SET_TITLES)[name]
    if name != score:
        return f"  of which bias, diversity / {name.removeprefix('ged_')}"
    return f"{title} (lower is better)" if score in LOWER_IS_BETTER | SET_TITLES.keys() else title
