"""Read and write the per-case CSV."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from diffmedseg.atomic import write_alone
from diffmedseg.errors import DataError
from diffmedseg.metrics.scores import TITLES, CaseScore

#: Name of the table in the folder of a run, a test or a zoo entry.
CASES = "cases.csv"
_NAMED = ("case", "region")
_TEXTS = (*_NAMED, "patient")
_COUNTED = ("num_slices", "num_samples", "num_raters")
_SPREAD = ("density_low", "density_high")  # over the samples of a case: no means of them are reported
_COLUMNS = (
    *_NAMED,
    *(name for name in TITLES if name != "seconds"),
    *_SPREAD,
    "both_empty",
    *_COUNTED,
    "patient",
    "seconds",
)


def write_cases(rows: Sequence[CaseScore], path: Path) -> None:
    """Write scores of cases, completely or not at all. Missing scores are empty."""

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            for row in rows:
                writer.writerow({name: "" if value != value else value for name, value in asdict(row).items()})

    write_alone(path, save)


def read_cases(path: Path) -> list[CaseScore]:
    """Read scores of cases. Columns that earlier versions did not write are NaN, or an empty patient.

    Raises:
        DataError: If the file is no table of cases; the message names the fault.
    """
    try:
        return _read(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table of cases ({error}): restore it.") from error


def _read(path: Path) -> list[CaseScore]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = (*_NAMED, "dice", "iou", "both_empty", *_COUNTED)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} is no table of cases: it has no column {', '.join(missing)}.")
        rows, names = [], [field.name for field in fields(CaseScore)]
        for line, row in enumerate(reader, 2):
            try:
                values = {name: _value(name, row[name]) for name in names if name in row}
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, line {line} cannot be read ({error}): restore it.") from error
            rows.append(CaseScore(**values))  # type: ignore[arg-type]
    if not rows:
        raise DataError(f"{path} holds no case.")
    return rows


def _value(name: str, text: str) -> str | int | float | bool:
    if name in _TEXTS:
        return text
    if name == "both_empty":
        return text == "True"
    if name in _COUNTED:
        return int(text)
    return float(text) if text else float("nan")
