"""Dividing a folder over processes: who segments what, and where each keeps its table."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from diffmedseg.errors import DataError

#: The folder, in that of the predictions, that holds a table for each part until one process has all of them.
PARTS = ".parts"
TABLE = "predictions.csv"
#: The key of predictions.yaml that says over how many processes which inputs are divided.
OF_PARTS = "parts"


@dataclass(frozen=True)
class Part:
    """One of several processes that divide the inputs of a folder.

    Attributes:
        number: Which one, from 1.
        of: How many there are.

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
        """Read such as ``2/8``.

        Raises:
            ValueError: If it is not of this form.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise ValueError(f"{text!r} is no part: write such as 2/8.")
        return cls(int(number), int(of))

    def owner(self, position: int, batch_size: int) -> int:
        """Return the number of the part that an input belongs to.

        Whole batches are dealt in turn. So each image is segmented beside the same others as by one process, and the
        results are equal to the last digit.

        Args:
            position: Position of the input among all, from 0.
            batch_size: Inputs that are segmented together.
        """
        return position // batch_size % self.of + 1

    def folder(self, predictions: Path) -> Path:
        """Return where this part keeps its table."""
        return predictions / PARTS / f"{self.number}-of-{self.of}"

    def describe(self, names: Sequence[str], batch_size: int) -> dict[str, Any]:
        """Return what all parts have to agree on, for ``predictions.yaml``."""
        digest = blake2b("\0".join(names).encode(), digest_size=8).hexdigest()
        return {"of": self.of, "batch_size": batch_size, "inputs": len(names), "names": digest}


def part_tables(predictions: Path) -> list[Path]:
    """Return the tables of all parts that began."""
    return sorted(predictions.glob(f"{PARTS}/*-of-*/{TABLE}"))


def remove_parts(predictions: Path) -> None:
    """Remove the tables of the parts. Call it only where no part writes to the folder.

    Raises:
        DataError: If they cannot be removed.
    """
    folder = predictions / PARTS
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise DataError(f"Cannot remove {os.fspath(folder)} ({error}): change its permissions.") from error
