"""Answer a request by the same functions as ``diffmedseg predict``."""

import base64
import csv
import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from threading import Event
from typing import Any

from torch import Tensor

from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction import (
    Naming,
    Outputs,
    Report,
    Settings,
    Stopped,
    Watcher,
    find_cases,
    find_pictures,
    predict_pictures,
    predict_volumes,
    takes_pictures,
)
from diffmedseg.prediction.rows import Row
from diffmedseg.reading.extent import announced_size
from diffmedseg.reading.names import PREDICTIONS
from diffmedseg.segmentation import SampleSet
from diffmedseg.service.batching import Batcher
from diffmedseg.service.limits import Refusal
from diffmedseg.wording import first_names

TABLE = "predictions.csv"
_TEXT_COLUMNS = {column.name for column in fields(Row) if column.type is str}
_MILLION = 10**6


@dataclass(frozen=True)
class RequestOptions:
    """Options of a request.

    Attributes:
        settings: Samples, steps, seed and threshold.
        samples: Whether the answer includes the samples.
        as_json: Whether the answer is JSON with files in base64, instead of a zip.
    """

    settings: Settings = field(default_factory=Settings)
    samples: bool = False
    as_json: bool = False


class RequestWatcher(Watcher):
    """Samples through the batcher, and ends the prediction when the request has ended.

    Args:
        batcher: Draws the samples.
        stop: Set when the request has ended.

    Attributes:
        failure: The refusal, if the model failed; the client's files are not to blame.
    """

    def __init__(self, batcher: Batcher, stop: Event) -> None:
        self._batcher, self._stop = batcher, stop
        self.failure: Refusal | None = None

    def report(self, share: float) -> None:
        """Raise :class:`Stopped` if the request has ended."""
        if self._stop.is_set():
            raise Stopped

    def describe(self, model: Segmenter) -> dict[str, Any]:
        """Return the batcher's description: the model never changes."""
        return self._batcher.description

    def draw(self, images: Tensor, keys: Sequence[str], model: Segmenter, settings: Settings) -> SampleSet:
        """Sample through the batcher."""
        self.report(0)
        try:
            return self._batcher.draw(images, keys, settings, self._stop)
        except Exception as error:
            self.failure = Refusal(500, f"The model failed ({type(error).__name__}: {error}).")
            raise self.failure from error


def check_extent(folder: Path, megapixels: int) -> None:
    """Refuse files whose headers announce too many pixels or voxels, before they are decoded.

    Raises:
        Refusal: With 413.
    """
    found = sum(map(announced_size, folder.iterdir()))
    if found > megapixels * _MILLION:
        raise Refusal(
            413,
            f"The files have {found / _MILLION:,.1f} million pixels or voxels; at most {megapixels:,} million are "
            "taken. Shrink or crop the image, or send fewer files.",
        )


def segment(model: Segmenter, folder: Path, options: RequestOptions, watcher: RequestWatcher) -> Path:
    """Segment the files in ``folder/in``, and return the folder of results.

    Args:
        model: The model.
        folder: Folder of the request.
        options: Options of the request.
        watcher: Draws the samples.

    Raises:
        DataError: If the model does not take such files.
        Refusal: With 422, if a file cannot be read or segmented; with 500, if the model fails.
        Stopped: If the request has ended.
    """
    inputs, out = folder / "in", folder / "out"
    files = sorted(inputs.iterdir())
    sources = files if len(files) == 1 else [inputs]
    outputs = Outputs(samples="npz" if options.samples else None)
    if takes_pictures(model):
        pictures = find_pictures(sources)
        _check_all_used(files, [picture.path for picture in pictures])
        report = predict_pictures(model, pictures, out, options.settings, outputs=outputs, watcher=watcher)
    else:
        cases = find_cases(sources, Naming(model.channels, {}))
        report = predict_volumes(model, cases, out, options.settings, outputs=outputs, watcher=watcher)
    if watcher.failure is not None:
        raise watcher.failure
    _check(report, folder)
    return out


def _check_all_used(files: Sequence[Path], used: Sequence[Path]) -> None:
    """Refuse files that would be left out: the client would take the answer for complete.

    Raises:
        DataError: Names the files.
    """
    if left := [file.name for file in files if file not in used]:
        raise DataError(
            f"{first_names(left)}: the ending of the name is not the ending of a picture. Name pictures such as "
            "image.png, and send no other files with them."
        )


def _check(report: Report, folder: Path) -> None:
    failed = [f"{path.name}: {reason}" for path, reason in report.failed.items()]
    if failed or not report.done:
        raise Refusal(422, without_folder(folder, "; ".join(failed) or "There is nothing to segment."))


def without_folder(folder: Path, message: str) -> str:
    """Return a message without the path of the request's folder."""
    return message.replace(f"{folder / 'in'}/", "").replace(str(folder / "in"), "the upload")


def as_zip(out: Path) -> bytes:
    """Pack the results."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:  # maps are compressed already
        for path in _files(out):
            archive.write(path, path.relative_to(out))
    return content.getvalue()


def as_json(out: Path) -> bytes:
    """Return the rows of ``predictions.csv``, and the maps in base64."""
    with (out / TABLE).open(newline="", encoding="utf-8") as table:
        rows = [
            {name: text if name in _TEXT_COLUMNS else _number(text) for name, text in row.items()}
            for row in csv.DictReader(table)
        ]
    maps = [path for path in _files(out) if path.name not in {TABLE, PREDICTIONS}]
    files = {path.relative_to(out).as_posix(): base64.b64encode(path.read_bytes()).decode() for path in maps}
    return json.dumps({"rows": rows, "files": files}).encode()


def _files(out: Path) -> list[Path]:
    return [path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith(".")]


def _number(text: str) -> int | float | None:
    """Return the number in a cell; None for NaN and infinity, which JSON does not have."""
    number = float(text)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and "." not in text else number
