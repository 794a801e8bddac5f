"""The folder that predictions are written to: whole files only, and a table that says what is there."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from diffmedseg.atomic import write_whole
from diffmedseg.errors import DataError
from diffmedseg.wording import first_names

MAPS = ("mask", "probability", "disagreement")
CONTOURS = ("inner", "outer")  # of calibrated models
OPTIONAL = ("familiarity",)  # columns that the table has where the model gives them


@dataclass(frozen=True)
class Row:
    """What is said of one region of one image: a row of ``predictions.csv``.

    Attributes:
        image: The image's name.
        region: The region.
        uncertainty: 1 - soft Dice confidence, in [0, 1]: high where the model expects a low Dice. Of an empty mask the
            share of samples that are not empty.
        seconds: Time to read and segment the image and to write its maps.
        digest: Digest of the files that it was read from.
        familiarity: Of the image, in (0, 1]; see :class:`~diffmedseg.familiarity.Familiarity`. None where the model has
            none: the table then has no such column.
    """

    image: str
    region: str
    uncertainty: float
    seconds: float
    digest: str
    familiarity: float | None = field(default=None, kw_only=True)


AnyRow = TypeVar("AnyRow", bound=Row)


def files_digest(files: Iterable[Path]) -> str:
    """Digest the content of files, in their order."""
    digest = blake2b(digest_size=8)
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class PredictionFolder(ABC, Generic[AnyRow]):
    """Writes maps and the table; every file appears whole or not at all, and nothing foreign is overwritten.

    One process at a time may write to a folder. A subclass says what a row holds and how maps are checked.

    Args:
        folder: Where to write; new, empty, or holding earlier predictions.
        regions: The model's regions.
        settings: What the results depend on; a folder never mixes results of different settings.
        resume: Go on with the results that are there.
        contours: Whether there are contours besides.

    Raises:
        DataError: If the folder holds anything else; if it holds results and ``resume`` is not set, or they were made
            with other settings.
    """

    row: type[AnyRow]
    suffix: str

    def __init__(
        self, folder: Path, regions: Sequence[str], settings: dict[str, Any], resume: bool, contours: bool
    ) -> None:
        self.folder, self.regions = folder, tuple(regions)
        self.kinds = MAPS + (CONTOURS if contours else ())
        self.rows: dict[str, list[AnyRow]] = {}
        self._settings = yaml.safe_load(yaml.safe_dump(settings))  # as it will be read again
        self._table, self._written = folder / "predictions.csv", folder / "predictions.yaml"
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file: name a folder to write to.")
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if there and self._written.name not in there:
            raise DataError(
                f"{folder} holds files that are not predictions ({first_names(there)}), which might be overwritten: "
                "choose a new folder."
            )
        rows = self._read_table()
        if not rows and set(there) <= {self._written.name, self._table.name}:
            return  # a call that came to nothing
        if not resume:
            raise DataError(f"{folder} holds predictions already: go on with them by --resume, or choose a new folder.")
        self._check_settings()
        self.rows = rows

    def _check_settings(self) -> None:
        try:
            before = yaml.safe_load(self._written.read_text(encoding="utf-8"))
            changed = [name for name in self._settings if before.get(name) != self._settings[name]]
        except (OSError, ValueError, yaml.YAMLError, AttributeError) as error:
            raise DataError(f"{self._written} is damaged ({error}): predict into a new folder.") from error
        if changed:
            said = ", ".join(f"{name} {before.get(name)} then and {self._settings[name]} now" for name in changed)
            raise DataError(f"{self.folder} was predicted with other settings ({said}): choose a new folder.")

    def _read_table(self) -> dict[str, list[AnyRow]]:
        if not self._table.is_file():
            return {}
        types = {field.name: field.type for field in fields(self.row) if field.name not in OPTIONAL}
        rows: dict[str, list[AnyRow]] = {}
        try:
            with self._table.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    optional = {name: float(line[name]) for name in OPTIONAL if line.get(name)}
                    values = {name: kind(line[name]) for name, kind in types.items()}  # type: ignore[operator]
                    row = self.row(**values | optional)
                    rows.setdefault(row.image, []).append(row)
        except KeyError as error:
            raise DataError(
                f"{self._table} is damaged or of another version (no column {error}): predict into a new folder."
            ) from error
        except (TypeError, ValueError, csv.Error) as error:
            raise DataError(f"{self._table} is damaged ({error!r}): predict into a new folder.") from error
        return rows

    @abstractmethod
    def check_map(self, path: Path, row: AnyRow) -> bool:
        """Whether a map is readable and of the row's size; may raise DataError or OSError where it is not."""

    def path(self, name: str, kind: str, region: str | None = None) -> Path:
        """Return where a map goes: ``<name>_<kind>``, or ``<name>_<region>_<kind>`` of several regions."""
        parts = [name, region, kind] if region is not None and len(self.regions) > 1 else [name, kind]
        suffix = ".png" if kind == "panel" else self.suffix
        return self.folder / f"{'_'.join(part for part in parts if part)}{suffix}"

    def _maps(self, name: str) -> list[Path]:
        return [self.path(name, kind, region) for region in self.regions for kind in self.kinds]

    def is_whole(self, name: str, files: Callable[[], Iterable[Path]], panel: bool) -> bool:
        """Whether the results of just these files are there, readable and of the right size."""
        rows = self.rows.get(name, [])
        if [row.region for row in rows] != list(self.regions):
            return False
        try:
            if rows[0].digest != files_digest(files()) or not all(
                self.check_map(path, rows[0]) for path in self._maps(name)
            ):
                return False
            return not panel or self.path(name, "panel").is_file()
        except (DataError, OSError):
            return False

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse inputs whose maps would have the same names.

        Raises:
            DataError: Naming such a file.
        """
        seen: set[Path] = set()
        for path in (path for name in names for path in self._maps(name)):
            if path in seen:
                raise DataError(
                    f"Two inputs would both write {path}: rename one, or predict them into folders of their own."
                )
            seen.add(path)

    def forget(self, names: Sequence[str]) -> None:
        """Remove what is there of pictures that are done anew: should that fail, nothing old stands for them."""
        for name in names:
            if self.rows.pop(name, None) is not None:
                for path in [*self._maps(name), self.path(name, "panel")]:
                    path.unlink(missing_ok=True)
        if self._table.is_file():
            self.write_table(list(self.rows))

    def write_table(self, order: Sequence[str]) -> None:
        """Write ``predictions.csv``: the pictures of ``order`` first, then those of earlier calls."""
        names = [*dict.fromkeys([*order, *self.rows])]

        def save(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                common = [field.name for field in fields(Row)]
                own = [field.name for field in fields(self.row) if field.name not in common]
                rows = [asdict(row) for name in names for row in self.rows.get(name, [])]
                unused = {name for name in OPTIONAL if all(row[name] is None for row in rows)}
                columns = [name for name in (*common[:2], *own, *common[2:]) if name not in unused]
                writer = csv.DictWriter(file, columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)

        write_whole(self._table, save)

    def begin(self) -> None:
        """Write ``predictions.yaml``, which marks the folder as one of predictions.

        Raises:
            DataError: If the folder cannot be written.
        """
        text = yaml.safe_dump(self._settings, sort_keys=False)
        try:
            write_whole(self._written, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise DataError(f"Cannot write to {self.folder} ({error}): choose another folder.") from error
