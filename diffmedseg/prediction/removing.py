"""Names of the files of predictions, and their removal."""

import csv
from collections.abc import Sequence
from pathlib import Path

import yaml

from diffmedseg.atomic import lock_folder, remove_temporaries, write_whole
from diffmedseg.errors import DataError
from diffmedseg.files import read_yaml
from diffmedseg.prediction.outputs import CONTOURS, DICOM, MAPS
from diffmedseg.prediction.parts import OF_PARTS, TABLE, part_tables, remove_parts
from diffmedseg.reading.names import PREDICTIONS

_SUFFIXES = (".png", ".tif", ".nii.gz", ".npz", ".dcm")
_EXTRAS = ("labels", "samples", "panel", *DICOM)


def file_name(name: str, kind: str, suffix: str, region: str | None) -> str:
    """Return the name of a file of an image's results."""
    return "_".join(part for part in (name, region, kind) if part) + suffix


def remove_predictions(folder: Path) -> None:
    """Remove the results in a folder of predictions, and no other files; do nothing without a folder.

    Raises:
        DataError: If another process writes to the folder, or the folder holds files that are not predictions.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / PREDICTIONS).is_file():
        raise DataError(f"{folder} holds files that are not predictions: choose a new folder.")
    try:
        with lock_folder(folder):
            remove_earlier(folder)
            (folder / PREDICTIONS).unlink()
    except BlockingIOError as error:
        raise DataError(f"Another process writes to {folder}. Wait until it ends.") from error


def close_parts(folder: Path) -> None:
    """Turn the predictions of parts, after all parts have ended, into predictions of a single process.

    Raises:
        DataError: If a part still writes to the folder.
    """
    written = folder / PREDICTIONS
    try:
        with lock_folder(folder):
            remove_temporaries(folder)
            settings = {name: value for name, value in read_yaml(written).items() if name != OF_PARTS}
            text = yaml.safe_dump(settings, sort_keys=False)
            write_whole(written, lambda temporary: temporary.write_text(text, encoding="utf-8"))
            remove_parts(folder)
    except BlockingIOError as error:
        raise DataError(f"Another process writes to {folder}. Wait until it ends.") from error


def remove_earlier(folder: Path) -> None:
    """Remove the results that the tables of earlier calls name, of any model."""
    regions: dict[str, list[str]] = {}
    for table in (folder / TABLE, *part_tables(folder)):
        try:
            with table.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    regions.setdefault(line["image"], []).append(line["region"])
        except FileNotFoundError:
            continue
        except (KeyError, ValueError, csv.Error) as error:
            raise DataError(
                f"{table} is damaged ({error!r}), and it has to say which results are replaced: predict into a "
                "new folder."
            ) from error
    resolved_folder = folder.resolve()
    for name, image_regions in regions.items():
        if name and "\0" not in name and (resolved_folder / name).resolve().is_relative_to(resolved_folder):
            remove_results(folder, name, list(dict.fromkeys(image_regions)))
    (folder / TABLE).unlink(missing_ok=True)
    remove_parts(folder)


def remove_results(folder: Path, name: str, regions: Sequence[str]) -> None:
    """Remove the results of an image, of all kinds of outputs."""
    for kind in (*MAPS, *CONTOURS, *_EXTRAS):
        for region in (None, *(regions if len(regions) > 1 else ())):
            for suffix in _SUFFIXES:
                (folder / file_name(name, kind, suffix, region)).unlink(missing_ok=True)
