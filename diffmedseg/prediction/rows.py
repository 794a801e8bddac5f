"""The table of predictions: its rows, its columns, reading and writing."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Generic, TypeVar

from diffmedseg.errors import DataError
from diffmedseg.prediction.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of ``predictions.csv``: the results of a region of an image.

    The metadata of a column may name a fact, such as ``calibrated``. Tables have the column if the fact is true of the
    model.

    Attributes:
        image: The image's name.
        region: The region.
        uncertainty: 1 - soft Dice confidence, in [0, 1]: high if the model expects a low Dice. It compares the mask
            with the mean of the samples before calibration. For an empty mask, it is the share of samples with
            foreground.
        seconds: Time to read and segment the image and to write its maps.
        digest: Digest of the image's files.
        familiarity: Familiarity of the image, in (0, 1]; see :class:`~diffmedseg.familiarity.Familiarity`. NaN if the
            model has none.
    """

    image: str
    region: str
    uncertainty: float
    seconds: float
    digest: str
    familiarity: float = field(default=float("nan"), metadata={"of": "familiar"})

    @property
    def outside_samples(self) -> bool:
        """Whether the mask is smaller than the smallest sample, or larger than the largest."""
        raise NotImplementedError

    @classmethod
    def more_columns(cls, columns: Sequence[str], outputs: Outputs) -> list[str]:
        """Return the names of columns that are computed from ``columns`` and the outputs."""
        return []

    def more(self, outputs: Outputs) -> dict[str, float]:
        """Return the values of :meth:`more_columns`."""
        return {}


AnyRow = TypeVar("AnyRow", bound=Row)


def files_digest(files: Iterable[Path]) -> str:
    """Return a digest of the content of files, in order."""
    digest = blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


class RowTable(Generic[AnyRow]):
    """Reads and writes ``predictions.csv``.

    Args:
        row: The class of rows.
        facts: Whether each fact is true of the model; see :class:`Row`.
        outputs: The written files.

    Attributes:
        columns: Names of the columns: image and region, columns of the class of rows, and other columns of all rows.
    """

    def __init__(self, row: type[AnyRow], facts: Mapping[str, bool], outputs: Outputs) -> None:
        self._row, self._outputs = row, outputs
        names = [column.name for column in fields(row) if facts.get(column.metadata.get("of", ""), True)]
        common = [column.name for column in fields(Row) if column.name in names]
        special = [name for name in names if name not in common]
        self.columns = [*common[:2], *special, *row.more_columns(special, outputs), *common[2:]]

    def read(self, table: Path) -> dict[str, list[AnyRow]]:
        """Read the rows of a table, by image; empty if the file is missing.

        Raises:
            DataError: If the table is damaged.
        """
        if not table.is_file():
            return {}
        rows: dict[str, list[AnyRow]] = {}
        try:
            with table.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    # A column with a default is not in every table.
                    columns = [col for col in fields(self._row) if col.name in line or "of" not in col.metadata]
                    row = self._row(**{col.name: col.type(line[col.name]) for col in columns})  # type: ignore[operator]
                    rows.setdefault(row.image, []).append(row)
        except KeyError as error:
            raise DataError(
                f"{table} is damaged or of another version (no column {error}): predict into a new folder."
            ) from error
        except (TypeError, ValueError, csv.Error) as error:
            raise DataError(f"{table} is damaged ({error!r}): predict into a new folder.") from error
        return rows

    def as_text(self, order: Sequence[str], rows: Mapping[str, list[AnyRow]]) -> str:
        """Return a table as text: the images of ``order`` first.

        Args:
            order: Names of images.
            rows: The rows, by image.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore")
        writer.writeheader()
        for row in (row for name in dict.fromkeys([*order, *rows]) for row in rows.get(name, [])):
            writer.writerow(vars(row) | row.more(self._outputs))
        return text.getvalue()
