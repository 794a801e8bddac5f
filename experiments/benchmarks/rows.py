"""Scores of every image beside the script that made them, so that anyone can make its tables again."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffmedseg.atomic import write_whole


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV by the names of its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows that all have the first one's columns."""

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, save)
