"""Scores of every image beside the script that made them, so that anyone can make its tables again."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffmedseg.atomic import write_whole


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV by the names of its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def with_earlier(rows: Sequence[Mapping[str, object]], path: Path, run: Sequence[str]) -> list[Mapping[str, object]]:
    """Return the rows in front of which stand those of a table that come from runs which are not here.

    Args:
        rows: Of the runs that are here.
        path: The table as it was, if there is one.
        run: The columns that tell which run a row comes from.
    """
    here = {tuple(str(row[column]) for column in run) for row in rows}
    earlier = read_rows(path) if path.is_file() else []
    return [*(row for row in earlier if tuple(row[column] for column in run) not in here), *rows]


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> np.ndarray:
    """Return the difference of two runs by what was scored, such as images or patients.

    Raises:
        ValueError: If the runs were scored on others, so that nothing could be paired.
    """
    if one.keys() != other.keys():
        raise ValueError(f"Two runs were scored on {len(one)} and {len(other)} cases that differ: score them again.")
    return np.array([one[name] - other[name] for name in sorted(one)])


def write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows that all have the first one's columns."""

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, save)
