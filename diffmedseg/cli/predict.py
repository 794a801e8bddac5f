"""``diffmedseg predict`` and ``windows``: segment, or find windows, with a run, a checkpoint or a zoo entry."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffmedseg.cli.parsing import (
    Parser,
    add_device,
    add_smallest,
    add_trust,
    add_tta,
    any_number,
    names,
    open_share,
    positive_integer,
    refuse,
    report_errors,
)

if TYPE_CHECKING:
    from diffmedseg.prediction import Outputs, Part


def _parser() -> Parser:
    parser = Parser(
        "diffmedseg predict",
        "Segment pictures or volumes with a trained model. Write predictions.csv and maps of each input. Pictures: "
        "NAME_mask.png (0 or 255), NAME_probability.png (0 to 255 for 0 to 1) and NAME_disagreement.png (255 where the "
        "samples' mean is 0.5), in the size and orientation of the file. Volumes: the same maps as .nii.gz (0 or 1; 0 "
        "to 1; 0 to 0.5) on the grid of the input, and volumes in millilitres. The mask is fused from the samples, so "
        "its area may lie outside of samples_area_min and samples_area_max.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="A checkpoint, a run's folder, or the name of a zoo entry. Several models form an ensemble, and so do all "
        "runs of an experiment's folder or of a quoted pattern such as 'runs/chase.*'.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="INPUT",
        help="Pictures, folders, or patterns such as 'photos/**/*.jpg'. For a model of volumes: folders of cases; a "
        "case has a file (or a folder of DICOM slices) for each modality.",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write to.")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="Keep finished results in OUT, and do the rest.")
    earlier.add_argument("--overwrite", action="store_true", help="Replace earlier results in OUT; keep other files.")
    _add_outputs(parser)
    parser.add_argument(
        "--dicom_seg",
        action="store_true",
        help="DICOM series: also write NAME_mask.dcm and NAME_probability.dcm (binary and fractional segmentations of "
        "the series of the first modality) and NAME_report.dcm (volumes). Needs pip install 'diffmedseg[dicom]'.",
    )
    parser.add_argument("--panel", action="store_true", help="Draw each result over its input, NAME_panel.png.")
    _add_sampling(parser)
    add_tta(parser)
    parser.add_argument(
        "--batch_size", type=positive_integer, default=8, help="Pictures or slices segmented together. Default: 8."
    )
    add_device(parser)
    parser.add_argument(
        "--devices",
        type=positive_integer,
        default=1,
        metavar="N",
        help="Divide the inputs between N GPUs, or between N processes with --device cpu. Default: 1.",
    )
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="Segment only the I-th of N parts of the inputs, such as 2/8. N jobs with the same inputs and OUT "
        "together do all of them.",
    )
    parser.add_argument("--bf16", action="store_true", help="Run the network in bfloat16: faster where supported.")
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="Pictures of more than 8 bits: black and white."
    )
    parser.add_argument(
        "--windows",
        type=Path,
        metavar="CSV",
        help="Pictures, for a model of windows: file of `diffmedseg windows` with the window of each picture.",
    )
    _add_volumes(parser)
    add_trust(parser)
    return parser


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_samples", type=positive_integer, help="Samples per image. Default: the model's setting.")
    parser.add_argument(
        "--num_steps", type=positive_integer, help="Network evaluations per sample. Default: the model's setting."
    )
    parser.add_argument(
        "--threshold",
        type=open_share,
        metavar="T",
        help="Threshold of the mask, between 0 and 1: the mask is where the (calibrated) probability exceeds T. "
        "Default: the model's threshold.",
    )
    parser.add_argument("--seed", type=int, help="Seed of the noise. Default: the model's seed.")


def _add_volumes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modality",
        type=_channel_name,
        action="append",
        default=[],
        metavar="CHANNEL=NAME",
        help="Volumes: name of the file (without suffix) or folder of a modality, such as t1ce='*_GD'.",
    )
    parser.add_argument("--brain_mask", metavar="NAME", help="Volumes: name of the file of the brain mask.")
    parser.add_argument(
        "--volumes",
        type=names,
        metavar="A,B,...",
        help="Volumes: modalities of the volumes in a four-dimensional file, in order.",
    )
    parser.add_argument(
        "--axes",
        type=names,
        metavar="A,B,...",
        help="Volumes: segment slices along each of these axes, and average the results: axial, coronal, sagittal. "
        "Default: axial, the axis of training.",
    )
    parser.add_argument(
        "--slice_correlation",
        type=_distance,
        metavar="MM",
        help="Volumes: slices that lie this far apart or farther have independent noise, nearer slices similar noise; "
        "0 gives each slice noise of its own. Default: the model's own, usually the same noise in all slices.",
    )
    add_smallest(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the files of each image."""
    parser.add_argument(
        "--maps",
        type=names,
        metavar="A,B,...",
        help="Maps to write: mask, probability, disagreement; for a calibrated model also inner and outer. "
        "Default: all.",
    )
    parser.add_argument(
        "--samples",
        nargs="?",
        const="image",
        choices=("image", "tiff", "nifti", "npz"),  # argparse checks const, too
        metavar="FORM",
        help="Also write the samples. FORM is tiff for pictures (the default; a page per sample), nifti for volumes "
        "(the default; four-dimensional), or npz (samples, regions, rows, columns).",
    )
    parser.add_argument(
        "--label_map",
        action="store_true",
        help="Write one map of all regions, NAME_labels: 1 for the outermost region to K for the innermost.",
    )
    parser.add_argument(
        "--labels",
        metavar="SCHEME",
        help="Write a label map with these values: brats (1, 2, 4), brats2023 (1, 2, 3), or REGION=VALUE,... A pixel "
        "gets the value of the innermost region that it lies in.",
    )
    parser.add_argument(
        "--pixel_size",
        type=_length,
        nargs="+",
        metavar="MM",
        help="Pictures: size of a pixel in mm, or its height and width. Adds areas in mm2 to predictions.csv.",
    )


def _length(text: str) -> float:
    number = any_number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length in mm above 0")
    return number


def _distance(text: str) -> float:
    number = any_number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a distance in mm, 0 or above")
    return number


def _outputs(options: argparse.Namespace, parser: Parser) -> "Outputs":
    from diffmedseg.cli.predicting import Outputs

    size = options.pixel_size
    if size is not None and len(size) > 2:
        parser.error(f"--pixel_size: {len(size)} lengths; expected one, or height and width.")
    samples = None if options.samples is None else "npz" if options.samples == "npz" else "image"
    return Outputs(
        maps=options.maps,
        samples=samples,
        labels=options.labels or ("order" if options.label_map else None),
        panel=options.panel,
        pixel_size=None if size is None else (size[0], size[-1]),
        dicom_seg=options.dicom_seg,
    )


def _part(text: str) -> "Part":
    from diffmedseg.prediction.parts import Part

    try:
        return Part.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _channel_name(text: str) -> tuple[str, str]:
    channel, equals, name = text.partition("=")
    if not (channel and equals and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not CHANNEL=NAME")
    return channel, name


def main(args: list[str]) -> None:
    """Run ``diffmedseg predict``. The exit code is 1 if an input failed."""
    parser = _parser()
    options = parser.parse_args(args)
    if options.range and not options.range[0] < options.range[1]:
        parser.error(f"--range: LOW {options.range[0]:g} has to be below HIGH {options.range[1]:g}.")
    if options.part and (options.devices > 1 or options.overwrite):
        parser.error(
            f"--part was given with {'--devices' if options.devices > 1 else '--overwrite'}. Leave one of them out."
        )
    if options.devices > 1:
        from diffmedseg.cli.devices import predict_on_devices

        with report_errors():
            sys.exit(predict_on_devices(args, options))
    from diffmedseg.cli.predicting import Settings, load_leading, on_device, predict, say

    settings = Settings(
        options.num_samples,
        options.num_steps,
        options.seed,
        options.bf16,
        tuple(options.range) if options.range else None,
        options.threshold,
        options.tta,
        dict(options.smallest) or None,
        options.axes,
        options.slice_correlation,
    )
    outputs = _outputs(options, parser)
    try:
        with report_errors():
            model = load_leading(options).to(on_device(options.device))
            report = predict(model, options, settings, outputs)
    except KeyboardInterrupt:
        print(f"Interrupted. Results in {options.out} are complete files; continue with --resume.", file=sys.stderr)
        sys.exit(130)
    say(report, options.out / "predictions.csv")
    if report.failed:
        sys.exit(1)


def windows(args: list[str]) -> None:
    """Run ``diffmedseg windows``. The exit code is 1 if a picture failed."""
    parser = Parser(
        "diffmedseg windows",
        "Find a window in each whole picture for a second model, such as a model of the optic disc. The window is a "
        "square around the largest part of the fused mask. Write id,left,top,width,height in pixels, for "
        "--data.windows and `predict --windows`. You can also write such a file by hand.",
    )
    parser.add_argument("ckpt", help="A checkpoint, run or zoo entry of a model of whole pictures.")
    parser.add_argument("images", nargs="+", help="Pictures, as for `predict`; with --data the folder of the data.")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="File to write.")
    parser.add_argument("--data", help="Name of a data set of pictures, or a yaml file of your own.")
    parser.add_argument(
        "--margin", type=float, default=2.0, help="Side of the square, in sides of the mask. Default: 2."
    )
    parser.add_argument("--batch_size", type=positive_integer, default=8, help="Pictures segmented together.")
    add_device(parser)
    add_trust(parser)
    options = parser.parse_args(args)
    if options.out.exists():
        refuse(f"{options.out} already exists. Name a new file.")
    from diffmedseg.cli.predicting import find, load_model, on_device, say

    with report_errors():
        report = find(load_model(options.ckpt, options.trust).to(on_device(options.device)), options)
    say(report, options.out)
    if report.failed:
        sys.exit(1)
