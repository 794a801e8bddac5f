"""Division of inputs into parts, one for each process, and the folder of each part's table."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from diffmedseg.errors import DataError

#: Folder of the tables of the parts, in the folder of predictions, until a process merges the tables.
PARTS = ".parts"
TABLE = "predictions.csv"
#: The key of the division into parts in predictions.yaml.
OF_PARTS = "parts"


@dataclass(frozen=True)
class Part:
    """The part of the inputs that one of several processes segments.

    Attributes:
        number: Number of the part, from 1.
        of: Number of parts.

    Raises:
        ValueError: If there is no such part.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"part {self.number} of {self.of}: parts count from 1 to {self.of}.")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse a text such as ``2/8``.

        Raises:
            ValueError: If the text has another form.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise ValueError(f"{text!r} is no part: write such as 2/8.")
        return cls(int(number), int(of))

    def owner(self, position: int, batch_size: int) -> int:
        """Return the number of the part that an input belongs to.

        Parts get whole batches in turn. The batches are therefore the same as in a single process, and the results are
        equal to the last digit.

        Args:
            position: Position of the input in the list of all inputs, from 0.
            batch_size: Inputs that are segmented together.
        """
        return position // batch_size % self.of + 1

    def folder(self, predictions: Path) -> Path:
        """Return the folder of this part's table."""
        return predictions / PARTS / f"{self.number}-of-{self.of}"

    def describe(self, names: Sequence[str], batch_size: int) -> dict[str, Any]:
        """Return the facts of the division that all parts have to share, for ``predictions.yaml``."""
        digest = blake2b("\0".join(names).encode(), digest_size=8).hexdigest()
        return {"of": self.of, "batch_size": batch_size, "inputs": len(names), "names": digest}


def part_tables(predictions: Path) -> list[Path]:
    """Return the tables of all parts that have begun."""
    return sorted(predictions.glob(f"{PARTS}/*-of-*/{TABLE}"))


def remove_parts(predictions: Path) -> None:
    """Remove the tables of the parts. Call this function only if no part writes to the folder.

    Raises:
        DataError: If the tables cannot be removed.
    """
    folder = predictions / PARTS
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise DataError(f"Cannot remove {os.fspath(folder)} ({error}): change its permissions.") from error
