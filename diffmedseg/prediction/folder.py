"""The folder that predictions are written to: whole files only, and a table that says what is there."""

import csv
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import yaml

from diffmedseg.atomic import is_temporary, lock_folder, remove_temporaries, write_whole
from diffmedseg.errors import DataError
from diffmedseg.files import read_yaml
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.outputs import CONTOURS, MAPS, Outputs, label_values
from diffmedseg.reading.names import PREDICTIONS
from diffmedseg.wording import first_names

_OUTPUTS = "outputs"  # the key of predictions.yaml that says which files and columns there are
_SUFFIXES = (".png", ".tif", ".nii.gz", ".npz")
_EXTRAS = ("labels", "samples", "panel")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is said of one region of one image: a row of ``predictions.csv``.

    A column whose metadata names a fact, such as ``calibrated``, is in the table of models of which it holds.

    Attributes:
        image: The image's name.
        region: The region.
        uncertainty: 1 - soft Dice confidence, in [0, 1]: high where the model expects a low Dice. It compares the mask
            with the mean of the samples before calibration. Of an empty mask it is the share of samples that are not
            empty.
        seconds: Time to read and segment the image and to write its maps.
        digest: Digest of the files that it was read from.
        familiarity: Of the image, in (0, 1]; see :class:`~diffmedseg.familiarity.Familiarity`. NaN where the model has
            none.
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
        """Name the columns that follow from others, out of ``columns``, and from the outputs."""
        return []

    def more(self, outputs: Outputs) -> dict[str, float]:
        """Return the values of :meth:`more_columns`."""
        return {}


AnyRow = TypeVar("AnyRow", bound=Row)


def files_digest(files: Iterable[Path]) -> str:
    """Digest the content of files, in their order."""
    digest = blake2b(digest_size=8)
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class PredictionFolder(ABC, Generic[AnyRow]):
    """Writes maps and the table; every file appears whole or not at all, and nothing foreign is overwritten.

    One process at a time may write to a folder; :meth:`opened` holds its lock. A subclass says what a row holds and how
    maps are checked.

    Args:
        folder: Where to write; new, empty, or holding earlier predictions.
        model: The model.
        settings: What the results depend on; a folder never mixes results of different settings. ``num_samples`` is
            one of them.
        outputs: Which files are written; None for all maps.

    Raises:
        DataError: If the model cannot give the outputs.
    """

    row: type[AnyRow]
    suffix: ClassVar[str]
    samples_suffix: ClassVar[str]

    def __init__(
        self, folder: Path, model: Segmenter, settings: dict[str, Any], outputs: Outputs | None = None
    ) -> None:
        self.folder, self.regions, self.nested = folder, tuple(model.regions), model.nested
        self.outputs = outputs or Outputs()
        self.num_samples = int(settings["num_samples"])
        self.kinds = self.outputs.kinds(model.conformal is not None)
        self.labels = label_values(self.outputs.labels, self.regions)
        facts = {"nested": model.nested, "calibrated": model.conformal is not None, "several": self.num_samples > 1}
        facts["familiar"] = model.familiarity is not None
        self.rows: dict[str, list[AnyRow]] = {}
        self.table, self._written = folder / "predictions.csv", folder / PREDICTIONS
        self._settings = yaml.safe_load(yaml.safe_dump(settings))  # as it will be read again
        self._columns = [one.name for one in fields(self.row) if facts.get(one.metadata.get("of", ""), True)]
        self._lock, self._locked, self._overwrite = ExitStack(), False, False

    @contextmanager
    def opened(self, resume: bool = False, overwrite: bool = False) -> Iterator[None]:
        """Hold the folder for this process, and read what is there; a folder that is missing is made by :meth:`begin`.

        Args:
            resume: Go on with the results that are there.
            overwrite: Replace the results that are there; :meth:`begin` removes them.

        Raises:
            DataError: If another process writes to the folder, or the folder holds anything else; if it holds results
                and neither is set, or the results to go on with were made with other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder} is a file: name a folder to write to.")
        self._overwrite = overwrite
        with self._lock:
            if self.folder.is_dir():
                self._take_lock()
                self._look(resume)
            try:
                yield
            finally:
                self._locked = False

    def _take_lock(self) -> None:
        try:
            safe = self._lock.enter_context(lock_folder(self.folder))
        except BlockingIOError as error:
            raise DataError(
                f"Another process writes to {self.folder}. Wait until it ends, or choose another folder."
            ) from error
        except OSError as error:
            raise DataError(f"Cannot open {self.folder} ({error}): choose another folder.") from error
        self._locked = True
        foreign = [path.name for path in self.folder.iterdir() if not is_temporary(path)]
        if safe and (not foreign or self._written.name in foreign):
            remove_temporaries(self.folder)

    def _look(self, resume: bool) -> None:
        there = [path.name for path in self.folder.iterdir() if not is_temporary(path)]
        if there and self._written.name not in there:
            raise DataError(
                f"{self.folder} holds files that are not predictions ({first_names(there)}), which might be "
                "overwritten: choose a new folder."
            )
        if self._overwrite:
            return
        rows = self._read_table()
        if not rows and set(there) <= {self._written.name, self.table.name}:
            return  # a call that came to nothing
        if not resume:
            raise DataError(
                f"{self.folder} holds predictions already: go on with them by --resume, replace them by --overwrite, "
                "or choose a new folder."
            )
        self._check_settings()
        self.rows = rows

    def _check_settings(self) -> None:
        try:
            before = read_yaml(self._written)
            earlier = before.pop(_OUTPUTS, None) or {}
            names = [*self._settings, *(name for name in before if name not in self._settings)]
            changed = [name for name in names if before.get(name) != self._settings.get(name)]
            labels = earlier.get("labels")
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{self._written} is damaged ({error}): predict into a new folder.") from error
        said = [f"{name} {before.get(name)} then and {self._settings.get(name)} now" for name in changed]
        if self.labels is None:
            self.labels_before = labels
        elif labels is not None and labels != self.labels:
            said.append(f"labels {labels} then and {self.labels} now")
        if said:
            raise DataError(
                f"{self.folder} was predicted with other settings ({', '.join(said)}): choose a new folder."
            )

    labels_before: Mapping[str, int] | None = None  # of the label maps that are there, where none are made now

    def _read_table(self) -> dict[str, list[AnyRow]]:
        if not self.table.is_file():
            return {}
        rows: dict[str, list[AnyRow]] = {}
        try:
            with self.table.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    # A column with a default is not in every table.
                    told = [one for one in fields(self.row) if one.name in line or "of" not in one.metadata]
                    row = self.row(**{one.name: one.type(line[one.name]) for one in told})  # type: ignore[operator]
                    rows.setdefault(row.image, []).append(row)
        except KeyError as error:
            raise DataError(
                f"{self.table} is damaged or of another version (no column {error}): predict into a new folder."
            ) from error
        except (TypeError, ValueError, csv.Error) as error:
            raise DataError(f"{self.table} is damaged ({error!r}): predict into a new folder.") from error
        return rows

    @abstractmethod
    def check_map(self, path: Path, row: AnyRow) -> bool:
        """Whether a map is readable and of the row's size; may raise DataError or OSError where it is not."""

    @abstractmethod
    def check_samples(self, path: Path, row: AnyRow) -> bool:
        """The same of a file with the samples of a region."""

    @abstractmethod
    def shape(self, row: AnyRow) -> tuple[int, ...]:
        """Return the shape of a map as an array."""

    def path(self, name: str, kind: str, region: str | None = None, suffix: str | None = None) -> Path:
        """Return where a map goes: ``<name>_<kind>``, or ``<name>_<region>_<kind>`` of several regions."""
        suffix = suffix or {"panel": ".png", "samples": self.samples_suffix}.get(kind, self.suffix)
        return self.folder / _file_name(name, kind, suffix, region if len(self.regions) > 1 else None)

    def archive(self, name: str) -> Path:
        """Return where the samples go as an ``.npz``."""
        return self.path(name, "samples", suffix=".npz")

    def _maps(self, name: str) -> list[Path]:
        return [self.path(name, kind, region) for region in self.regions for kind in self.kinds]

    def _samples(self, name: str) -> list[Path]:
        return [self.path(name, "samples", region) for region in self.regions]

    def _files(self, name: str) -> list[Path]:
        """Name all files that are written for an image now."""
        files = self._maps(name)
        files += self._samples(name) if self.outputs.samples == "image" else []
        files += [self.archive(name)] if self.outputs.samples == "npz" else []
        files += [self.path(name, "labels")] if self.labels else []
        return files + ([self.path(name, "panel")] if self.outputs.panel else [])

    def is_whole(self, name: str, files: Callable[[], Iterable[Path]]) -> bool:
        """Whether the results of just these files are there, readable and of the right size."""
        rows = self.rows.get(name, [])
        if [row.region for row in rows] != list(self.regions):
            return False
        row = rows[0]
        maps = self._maps(name) + ([self.path(name, "labels")] if self.labels else [])
        try:
            if row.digest != files_digest(files()) or not all(self.check_map(path, row) for path in maps):
                return False
            if self.outputs.samples == "image" and not all(
                self.check_samples(path, row) for path in self._samples(name)
            ):
                return False
            if self.outputs.samples == "npz" and not self._check_archive(self.archive(name), row):
                return False
            return not self.outputs.panel or self.path(name, "panel").is_file()
        except Exception:  # whatever reading a damaged file brings about
            return False

    def _check_archive(self, path: Path, row: AnyRow) -> bool:
        expected = (self.num_samples, len(self.regions), *self.shape(row))
        with zipfile.ZipFile(path) as archive:
            with archive.open("samples.npy") as file:
                np.lib.format.read_magic(file)
                shape, _, _ = np.lib.format.read_array_header_1_0(file)
            return shape == expected and archive.testzip() is None

    def write_archive(self, name: str, shape: tuple[int, ...], samples: Iterable[np.ndarray]) -> None:
        """Write ``<name>_samples.npz``: ``samples`` (S, K, ...), bool, and ``regions``; one sample in memory at a time.

        Args:
            name: The image's name.
            shape: Shape of a map.
            samples: S arrays (K, ...), bool.
        """
        whole = (self.num_samples, len(self.regions), *shape)

        def save(temporary: Path) -> None:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                with archive.open("samples.npy", "w", force_zip64=True) as file:
                    header = {"descr": "|b1", "fortran_order": False, "shape": whole}
                    np.lib.format.write_array_header_1_0(file, header)
                    for sample in samples:
                        file.write(np.ascontiguousarray(sample).data)
                with archive.open("regions.npy", "w") as file:
                    np.lib.format.write_array(file, np.array(self.regions), allow_pickle=False)

        write_whole(self.archive(name), save)

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse inputs whose results would have the same names.

        Raises:
            DataError: Naming such a file.
        """
        seen: set[Path] = set()
        for path in (path for name in names for path in self._files(name)):
            if path in seen:
                raise DataError(
                    f"Two inputs would both write {path}: rename one, or predict them into folders of their own."
                )
            seen.add(path)

    def forget(self, names: Sequence[str]) -> None:
        """Remove what is there of images that are done anew: should that fail, nothing old stands for them."""
        known = [name for name in names if self.rows.pop(name, None) is not None]
        for name in known:
            self._remove(name, self.regions)
        if known and self.table.is_file():
            self.write_table(list(self.rows))

    def _remove(self, name: str, regions: Sequence[str]) -> None:
        """Remove the results of an image, whichever outputs they were written with."""
        for kind in (*MAPS, *CONTOURS, *_EXTRAS):
            for region in (None, *(regions if len(regions) > 1 else ())):
                for suffix in _SUFFIXES:
                    (self.folder / _file_name(name, kind, suffix, region)).unlink(missing_ok=True)

    def _remove_earlier(self) -> None:
        """Remove the results that the table of earlier calls names, whatever model they are of."""
        regions: dict[str, list[str]] = {}
        try:
            with self.table.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    regions.setdefault(line["image"], []).append(line["region"])
        except FileNotFoundError:
            return
        except (KeyError, ValueError, csv.Error) as error:
            raise DataError(
                f"{self.table} is damaged ({error!r}), and it has to say which results are replaced: predict into a "
                "new folder."
            ) from error
        inside = self.folder.resolve()
        for name, found in regions.items():
            if name and "\0" not in name and (inside / name).resolve().is_relative_to(inside):
                self._remove(name, found)
        self.table.unlink()

    def write_table(self, order: Sequence[str]) -> None:
        """Write ``predictions.csv``: the images of ``order`` first, then those of earlier calls."""
        names = [*dict.fromkeys([*order, *self.rows])]
        columns = self._table_columns()

        def save(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, extrasaction="ignore")
                writer.writeheader()
                for row in (row for name in names for row in self.rows.get(name, [])):
                    writer.writerow(vars(row) | row.more(self.outputs))

        write_whole(self.table, save)

    def _table_columns(self) -> list[str]:
        """Name the columns: image and region, what the subclass says, and what all rows have."""
        common = [one.name for one in fields(Row) if one.name in self._columns]
        own = [name for name in self._columns if name not in common]
        return [*common[:2], *own, *self.row.more_columns(own, self.outputs), *common[2:]]

    def begin(self) -> None:
        """Make the folder, and write ``predictions.yaml``, which marks it as one of predictions.

        With ``overwrite`` the results of earlier calls go now.

        Raises:
            DataError: If the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._locked:
                self._take_lock()
                self._look(resume=False)  # another process may have come between
            if self._overwrite:
                self._remove_earlier()
            said = {
                "maps": list(self.kinds),
                "samples": self.outputs.samples,
                "labels": dict(labels) if (labels := self.labels or self.labels_before) else None,
                "pixel_size": None if self.outputs.pixel_size is None else list(self.outputs.pixel_size),
                "columns": self._table_columns(),
            }
            text = yaml.safe_dump(self._settings | {_OUTPUTS: said}, sort_keys=False)
            write_whole(self._written, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise DataError(f"Cannot write to {self.folder} ({error}): choose another folder.") from error


def _file_name(name: str, kind: str, suffix: str, region: str | None) -> str:
    return "_".join(part for part in (name, region, kind) if part) + suffix
