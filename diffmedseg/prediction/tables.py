"""The tables of a folder of predictions: one for each part while parts write, and ``predictions.csv`` of all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic

from diffmedseg.atomic import write_whole
from diffmedseg.prediction.parts import TABLE, Part, part_tables
from diffmedseg.prediction.rows import AnyRow, RowTable


class PredictionTables(Generic[AnyRow]):
    """Reads and writes the tables of a folder, for a process that segments all images or a part of them.

    A part writes a table of its own. Each part that ends also writes ``predictions.csv`` from the tables of all parts.

    Args:
        folder: The folder of predictions.
        form: The form of a table.
        part: The part of this process; None for all images.

    Attributes:
        all_images: ``predictions.csv``.
        division: The facts of the division into parts that all parts share; None without parts.
    """

    def __init__(self, folder: Path, form: RowTable[AnyRow], part: Part | None) -> None:
        self.folder, self.form, self.part = folder, form, part
        self.all_images = folder / TABLE
        self.division: dict[str, Any] | None = None
        self._owners: dict[str, int] = {}  # the number of the part of each image

    @property
    def own(self) -> Path:
        """The table of this process."""
        return self.all_images if self.part is None else self.part.folder(self.folder) / TABLE

    def deal(self, names: Sequence[str], batch_size: int) -> set[str]:
        """Return the names of the images that this process segments.

        Args:
            names: Names of all inputs, in the same order in all processes.
            batch_size: Inputs that are segmented together.
        """
        if self.part is None:
            return set(names)
        self._owners = {name: self.part.owner(position, batch_size) for position, name in enumerate(names)}
        self.division = self.part.describe(names, batch_size)
        return {name for name, owner in self._owners.items() if owner == self.part.number}

    def read(self) -> dict[str, list[AnyRow]]:
        """Read the rows of earlier calls, for the images of this process.

        A part without a table reads ``predictions.csv``, which may be older than all parts.

        Raises:
            DataError: If a table is damaged.
        """
        if self.part is None:
            rows = self.form.read(self.all_images)
            for table in part_tables(self.folder):
                rows |= self.form.read(table)
            return rows
        rows = self.form.read(self.own if self.own.is_file() else self.all_images)
        return {name: image_rows for name, image_rows in rows.items() if self._owners.get(name) == self.part.number}

    def write(self, order: Sequence[str], rows: Mapping[str, list[AnyRow]]) -> None:
        """Write the table of this process.

        Args:
            order: Names of the images of this call; they come first.
            rows: The rows of this call and of earlier calls, by image.
        """
        _write_text(self.own, self.form.as_text(order, rows))

    def publish(self) -> None:
        """Write ``predictions.csv`` from the tables of all parts that have begun; do nothing without parts.

        Several parts may end at the same time. Each part reads the tables again after it wrote, so that the last part
        that writes has read all tables.
        """
        if self.part is None:
            return
        written = ""
        while (text := self.form.as_text(list(self._owners), self._rows_of_all(self.part))) != written:
            written = text
            _write_text(self.all_images, text)

    def _rows_of_all(self, part: Part) -> dict[str, list[AnyRow]]:
        """Return the rows of the parts that have begun, and the earlier rows of all other images."""
        tables = {number: Part(number, part.of).folder(self.folder) / TABLE for number in {*self._owners.values()}}
        begun = {number: self.form.read(table) for number, table in tables.items() if table.is_file()}
        earlier = self.form.read(self.all_images)
        rows = {name: image_rows for name, image_rows in earlier.items() if self._owners.get(name) not in begun}
        for part_rows in begun.values():
            rows |= part_rows
        return rows


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_bytes(text.encode()))
