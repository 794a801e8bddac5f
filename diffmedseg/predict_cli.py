"""``diffmedseg predict`` and ``windows``: segment, or look where to look, with a checkpoint or a zoo entry."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from diffmedseg.data.catalogue import configured
from diffmedseg.data.pictures import PictureDataModule
from diffmedseg.data.pictures.windows import read_windows, write_windows
from diffmedseg.data.store import DataError
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.prediction import (
    Naming,
    PictureFile,
    Report,
    Settings,
    find_cases,
    find_pictures,
    find_windows,
    predict_pictures,
    predict_volumes,
    takes_pictures,
)
from diffmedseg.zoo import ZooError, load_model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "diffmedseg predict",
        description="Segment pictures or volumes, whatever the model was trained on. Writes predictions.csv "
        "and, in the size and orientation of each picture's file, NAME_mask.png (0 or 255), NAME_probability.png (0 to "
        "255), NAME_disagreement.png (255: the samples are evenly split). Of volumes the same as .nii.gz (0 or 1; 0 to "
        "1; 0 to 0.5) on the grid of the input, and volumes in millilitres.",
    )
    parser.add_argument("ckpt", help="A checkpoint, a run's folder, or the name of a zoo entry.")
    parser.add_argument(
        "images",
        nargs="+",
        help="Pictures, folders, or patterns such as 'photos/**/*.jpg'; for a model of volumes: folders with a file "
        "(or a folder of DICOM slices) for each modality, and folders of these.",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write to.")
    parser.add_argument("--resume", action="store_true", help="Keep results in OUT that are whole; do the rest.")
    parser.add_argument("--panel", action="store_true", help="Draw each result over its input, NAME_panel.png.")
    parser.add_argument("--num_samples", type=positive_integer, help="Samples per image. Default: the model's own.")
    parser.add_argument(
        "--num_steps", type=positive_integer, help="Network evaluations per sample. Default: the model's own."
    )
    parser.add_argument("--seed", type=int, help="Seed of the noise. Default: the model's own.")
    parser.add_argument(
        "--batch_size", type=positive_integer, default=8, help="Pictures or slices segmented together. Default: 8."
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    parser.add_argument("--bf16", action="store_true", help="Run the network in bfloat16: faster where supported.")
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="Pictures: what is black and white beyond 8 bits."
    )
    parser.add_argument(
        "--windows",
        type=Path,
        metavar="CSV",
        help="Pictures, for a model of windows: the window of each, as `diffmedseg windows` finds them.",
    )
    parser.add_argument(
        "--modality",
        type=_named,
        action="append",
        default=[],
        metavar="CHANNEL=NAME",
        help="Volumes: what the file (without suffix) or folder of a modality is called, such as t1ce='*_GD'.",
    )
    parser.add_argument("--brain_mask", metavar="NAME", help="Volumes: the same for the brain mask.")
    parser.add_argument(
        "--volumes",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B,...",
        help="Volumes: what the volumes of four-dimensional files are, in their order.",
    )
    add_trust(parser)
    return parser


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``."""
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE",
        help="Import and build classes of this package, too, where the model or its data names them. Can be repeated.",
    )  # fmt: skip


def positive_integer(text: str) -> int:
    """Read a whole number of at least 1; argparse names the function where it fails."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _named(text: str) -> tuple[str, str]:
    channel, found, name = text.partition("=")
    if not (channel and found and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not CHANNEL=NAME")
    return channel, name


def main(args: list[str]) -> None:
    """Run ``diffmedseg predict``; exits with 1 where an input failed."""
    parser = _parser()
    options = parser.parse_args(args)
    if options.range and not options.range[0] < options.range[1]:
        parser.error(f"--range: LOW {options.range[0]:g} has to be below HIGH {options.range[1]:g}.")
    settings = Settings(
        options.num_samples,
        options.num_steps,
        options.seed,
        options.bf16,
        tuple(options.range) if options.range else None,
    )
    try:
        report = _predict(load_model(options.ckpt, options.trust).to(_device(options.device)), options, settings)
    except (DataError, ZooError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"Interrupted. What is in {options.out} is whole: --resume goes on.", file=sys.stderr)
        sys.exit(130)
    _say(report, options.out / "predictions.csv")
    if report.failed:
        sys.exit(1)


def _predict(model: DiffusionSegmenter, options: argparse.Namespace, settings: Settings) -> Report:
    """Segment what the model takes."""
    how = options.out, settings, options.batch_size, options.panel, options.resume
    if takes_pictures(model):
        if options.modality or options.volumes or options.brain_mask:
            takes = ", ".join(model.channels)
            raise DataError(
                f"--modality, --volumes and --brain_mask are for models of volumes; this one takes {takes}."
            )
        windows = None if options.windows is None else read_windows(options.windows)
        return predict_pictures(model, find_pictures(options.images), *how, windows)
    if options.range or options.windows:
        given = "--range" if options.range else "--windows"
        raise DataError(f"{given} is for pictures; this model takes volumes of {', '.join(model.channels)}.")
    naming = Naming(model.channels, dict(options.modality), options.volumes, options.brain_mask)
    return predict_volumes(model, find_cases(options.images, naming), *how)


def windows(args: list[str]) -> None:
    """Run ``diffmedseg windows``; exits with 1 where a picture failed."""
    parser = argparse.ArgumentParser(
        "diffmedseg windows",
        description="Find in whole pictures where another model should look closely, as the optic disc: a square "
        "around the largest part of the fused mask. Writes id,left,top,width,height, in pixels, for --data.windows and "
        "`predict --windows`; such a file may as well be written by hand.",
    )
    parser.add_argument("ckpt", help="A checkpoint, a run's folder, or the name of a zoo entry; of whole pictures.")
    parser.add_argument("images", nargs="+", help="Pictures, as `predict` takes them; with --data the data's folder.")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="File to write.")
    parser.add_argument("--data", help="The yaml of a data set of pictures, or the name of one in experiments/data.")
    parser.add_argument(
        "--margin", type=float, default=2.0, help="Side of the square, as a multiple of the mask's. Default: 2."
    )
    add_trust(parser)
    parser.add_argument("--batch_size", type=positive_integer, default=8, help="Pictures segmented together.")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
    options = parser.parse_args(args)
    try:
        if options.out.exists():
            raise DataError(f"{options.out} is there already: name a new file.")
        model = load_model(options.ckpt, options.trust).to(_device(options.device))
        pictures = find_pictures(options.images) if options.data is None else _of_data(options.data, options.images)
        found, report = find_windows(model, pictures, options.margin, options.batch_size)
        write_windows(options.out, found)
    except (DataError, ZooError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    _say(report, options.out)
    if report.failed:
        sys.exit(1)


def _of_data(name: str, folders: list[str]) -> list[PictureFile]:
    """Name the pictures of a data set by their ids."""
    if len(folders) > 1:
        raise DataError(f"With --data name one folder, that of the data set; there are {len(folders)}.")
    data = configured(name, folders[0], {})
    if not isinstance(data, PictureDataModule):
        raise DataError(f"{name} takes no windows: only data sets of diffmedseg.data.PictureDataModule do.")
    return [PictureFile(case.image, case.id) for case in data.cases.values()]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DataError(f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}).") from error
    return torch.device(name)


def _say(report: Report, out: Path) -> None:
    console = Console(soft_wrap=True, highlight=False, stderr=True, emoji=False)
    for path, note in report.notes.items():
        console.print(f"note: {path}: {note}", markup=False)
    for path, reason in report.failed.items():
        console.print(f"failed: {path}: {reason}", markup=False)
    kept = f", kept {len(report.kept)}" if report.kept else ""
    failed = f", failed {len(report.failed)}" if report.failed else ""
    console.print(f"Segmented {len(report.done)}{kept}{failed}. Results: {out}", markup=False)
