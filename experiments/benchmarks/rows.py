"""Read and write tables with the scores of every image, from which the scripts print their summaries."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffmedseg.atomic import write_whole


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV as mappings from column names."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def with_earlier(rows: Sequence[Mapping[str, object]], path: Path, run: Sequence[str]) -> list[Mapping[str, object]]:
    """Return new rows, after the earlier rows of all other runs.

    Args:
        rows: The new rows.
        path: The earlier table, if there is one.
        run: The columns that identify the run of a row.
    """
    runs = {tuple(str(row[column]) for column in run) for row in rows}
    earlier = read_rows(path) if path.is_file() else []
    return [*(row for row in earlier if tuple(row[column] for column in run) not in runs), *rows]


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> np.ndarray:
    """Return the paired differences of two runs, by images or patients.

    Raises:
        ValueError: If the two runs were scored on different images or patients.
    """
    if one.keys() != other.keys():
        raise ValueError(f"Two runs were scored on {len(one)} and {len(other)} cases that differ: score them again.")
    return np.array([one[name] - other[name] for name in sorted(one)])


def write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows. All rows have the columns of the first row."""

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, save)
