"""The work of ``diffmedseg predict`` and ``windows``; :mod:`diffmedseg.cli.predict` has their parsers."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from diffmedseg.data.catalogue import configured
from diffmedseg.data.pictures import PictureDataModule
from diffmedseg.data.pictures.windows import read_windows, write_windows
from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction import (
    Naming,
    Outputs,
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
from diffmedseg.zoo import load_model
from diffmedseg.zoo.members import check_first_input, names_models

__all__ = ["Outputs", "Settings", "find", "load_leading", "load_model", "on_device", "predict", "say"]

_OF_VOLUMES = ("smallest", "axes", "slice_correlation")


def predict(model: Segmenter, options: argparse.Namespace, settings: Settings, outputs: Outputs) -> Report:
    """Segment the pictures or volumes that the options name."""
    arguments = options.out, settings, options.batch_size, outputs.panel, options.resume
    if takes_pictures(model):
        if options.modality or options.volumes or options.brain_mask:
            takes = ", ".join(model.channels)
            raise DataError(
                f"--modality, --volumes and --brain_mask are for models of volumes; this model takes {takes}."
            )
        if options.samples == "nifti":
            raise DataError("--samples nifti is for volumes; this model takes pictures. Use --samples tiff or npz.")
        if options.dicom_seg:
            raise DataError("--dicom_seg is for DICOM series; this model takes pictures. Leave --dicom_seg out.")
        if option := next((name for name in _OF_VOLUMES if getattr(settings, name) is not None), None):
            raise DataError(f"--{option} is for volumes; this model takes pictures. Leave --{option} out.")
        windows = None if options.windows is None else read_windows(options.windows)
        pictures = find_pictures(options.images)
        return predict_pictures(model, pictures, *arguments, windows, options.overwrite, outputs, options.part)
    only_pictures = {"--range": options.range, "--windows": options.windows, "--pixel_size": options.pixel_size}
    if option := next((name for name, value in only_pictures.items() if value), None):
        raise DataError(f"{option} is for pictures; this model takes volumes. Leave {option} out.")
    if options.samples == "tiff":
        raise DataError("--samples tiff is for pictures; this model takes volumes. Use --samples nifti or npz.")
    naming = Naming(model.channels, dict(options.modality), options.volumes, options.brain_mask)
    cases = find_cases(options.images, naming)
    return predict_volumes(model, cases, *arguments, options.overwrite, outputs, options.part)


def load_leading(options: argparse.Namespace) -> Segmenter:
    """Load the model, or the ensemble of all models before the first input."""
    names = [options.model]
    while len(options.images) > 1 and names_models(options.images[0]):
        names.append(options.images.pop(0))
    check_first_input(options.images[0])
    model = load_model(names, options.trust)
    if model.members:
        print(f"Ensemble of {len(model.members)} models: {', '.join(model.members)}", file=sys.stderr)
        print(
            "An ensemble has no calibration and no contours: a member's calibration holds for that member alone.",
            file=sys.stderr,
        )
    return model


def find(model: Segmenter, options: argparse.Namespace) -> Report:
    """Find windows, and write them."""
    pictures = find_pictures(options.images) if options.data is None else _of_data(options.data, options.images)
    windows, report = find_windows(model, pictures, options.margin, options.batch_size)
    write_windows(options.out, windows)
    return report


def _of_data(name: str, folders: list[str]) -> list[PictureFile]:
    """Return the pictures of a data set, named by their ids."""
    if len(folders) > 1:
        raise DataError(f"--data takes one folder, the folder of the data set; got {len(folders)}.")
    data = configured(name, folders[0], {})
    if not isinstance(data, PictureDataModule):
        raise DataError(f"{name} takes no windows: only data sets of diffmedseg.data.PictureDataModule do.")
    return [PictureFile(case.image, case.id) for case in data.cases.values()]


def on_device(name: str) -> torch.device:
    """Return a device that works here. ``auto`` is the first available of CUDA, MPS and CPU."""
    if name == "auto":
        fallback = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else fallback
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DataError(f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}).") from error
    return torch.device(name)


def say(report: Report, out: Path) -> None:
    """Print the notes, the failures and the counts of a report."""
    console = Console(soft_wrap=True, highlight=False, stderr=True, emoji=False)
    for path, note in report.notes.items():
        console.print(f"note: {path}: {note}", markup=False)
    for path, reason in report.failed.items():
        console.print(f"failed: {path}: {reason}", markup=False)
    kept = f", kept {len(report.kept)}" if report.kept else ""
    failed = f", failed {len(report.failed)}" if report.failed else ""
    console.print(f"Segmented {len(report.done)}{kept}{failed}. Results: {out}", markup=False)
