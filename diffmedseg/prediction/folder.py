"""The folder that predictions are written to: whole files only, and a table that says what is there."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
import yaml

from diffmedseg.atomic import is_temporary, lock_folder, remove_temporaries, write_first, write_whole
from diffmedseg.errors import DataError
from diffmedseg.files import read_yaml
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.archives import archive_is_whole, write_archive
from diffmedseg.prediction.outputs import DICOM, Outputs
from diffmedseg.prediction.parts import OF_PARTS, PARTS, TABLE, Part, part_tables, remove_parts
from diffmedseg.prediction.removing import file_name, remove_earlier, remove_results
from diffmedseg.prediction.rows import AnyRow, RowTable, files_digest
from diffmedseg.reading.label_maps import label_values
from diffmedseg.reading.names import PREDICTIONS
from diffmedseg.wording import first_names

_OUTPUTS = "outputs"  # the key of predictions.yaml that says which files and columns there are


class PredictionFolder(ABC, Generic[AnyRow]):
    """Writes maps and the table; every file appears whole or not at all, and nothing foreign is overwritten.

    One process at a time may write to a folder, or several that each segment a part of the inputs; :meth:`opened` holds
    its lock. A part keeps a table of its own, from which every part that ends writes the table of all. A subclass says
    what a row holds and how maps are checked.

    Args:
        folder: Where to write; new, empty, or holding earlier predictions.
        model: The model.
        settings: What the results depend on; a folder never mixes results of different settings. ``num_samples`` is
            one of them.
        outputs: Which files are written; None for all maps.
        part: The part of the inputs that this process segments; None for all.

    Raises:
        DataError: If the model cannot give the outputs.
    """

    row: type[AnyRow]
    suffix: ClassVar[str]
    samples_suffix: ClassVar[str]

    def __init__(
        self,
        folder: Path,
        model: Segmenter,
        settings: dict[str, Any],
        outputs: Outputs | None = None,
        part: Part | None = None,
    ) -> None:
        self.folder, self.regions, self.nested = folder, tuple(model.regions), model.nested
        self.outputs = outputs or Outputs()
        self.num_samples = int(settings["num_samples"])
        self.kinds = self.outputs.kinds(model.conformal is not None)
        self.labels = label_values(self.outputs.labels, self.regions)
        facts = {"nested": model.nested, "calibrated": model.conformal is not None, "several": self.num_samples > 1}
        facts["familiar"] = model.familiarity is not None
        self._form = RowTable(self.row, facts, self.outputs)
        self.rows: dict[str, list[AnyRow]] = {}
        self.table, self._written, self.part = folder / TABLE, folder / PREDICTIONS, part
        self._owners: dict[str, int] = {}  # by name of an image, the part that it belongs to
        self._division: dict[str, Any] | None = None
        self._settings = yaml.safe_load(yaml.safe_dump(settings))  # as it will be read again
        self._lock, self._locked, self._overwrite = ExitStack(), False, False

    def deal(self, names: Sequence[str], batch_size: int) -> set[str]:
        """Return the names of the images that this process segments. Call it first.

        Args:
            names: Names of all inputs, in an order that all processes have.
            batch_size: Inputs that are segmented together.
        """
        if self.part is None:
            return set(names)
        self._owners = {name: self.part.owner(position, batch_size) for position, name in enumerate(names)}
        self._division = self.part.describe(names, batch_size)
        return {name for name, owner in self._owners.items() if owner == self.part.number}

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
        if self.part is not None and overwrite:
            raise DataError(
                "A part cannot replace earlier results, which other parts may be writing: remove them first, or choose "
                "a new folder."
            )
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
            safe = self._lock.enter_context(lock_folder(self.folder, shared=self.part is not None))
        except BlockingIOError as error:
            raise DataError(
                f"Another process writes to {self.folder}. Wait until it ends, or choose another folder."
            ) from error
        except OSError as error:
            raise DataError(f"Cannot open {self.folder} ({error}): choose another folder.") from error
        self._locked = True
        foreign = self._names_in_folder()
        if safe and self.part is None and (not foreign or self._written.name in foreign):
            remove_temporaries(self.folder)

    def _names_in_folder(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if not is_temporary(path) and path.name != PARTS]

    def _look(self, resume: bool) -> None:
        there = self._names_in_folder()
        if there and self._written.name not in there:
            raise DataError(
                f"{self.folder} holds files that are not predictions ({first_names(there)}), which might be "
                "overwritten: choose a new folder."
            )
        if self._overwrite:
            return
        rows = self._read_table()
        if self.part is not None and there:
            self._check_settings()
        if not rows and (set(there) <= {self._written.name, self.table.name} or self.part is not None):
            return  # a call that came to nothing, or other parts
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
            earlier, division = before.pop(_OUTPUTS, None) or {}, before.pop(OF_PARTS, None)
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
        if self.part is not None and division is not None:
            said += [
                f"{name} {theirs} then and {ours} now"
                for now, then in ((self._division or {}, division), (self._describe_outputs(), earlier))
                for name in now
                if (theirs := then.get(name)) != (ours := now[name])
            ]
        if said:
            raise DataError(
                f"{self.folder} was predicted with other settings ({', '.join(said)}): choose a new folder."
            )

    labels_before: Mapping[str, int] | None = None  # of the label maps that are there, where none are made now

    def _read_table(self) -> dict[str, list[AnyRow]]:
        """Read the rows of earlier calls: of all images, or of those of this part.

        Where other parts have begun, what the table says of this part's images comes from before all parts.
        """
        if self.part is None:
            rows = self._form.read(self.table)
            for table in part_tables(self.folder):
                rows |= self._form.read(table)
            return rows
        own = self._own_table
        rows = self._form.read(own if own.is_file() else self.table)
        return {name: found for name, found in rows.items() if self._owners.get(name) == self.part.number}

    @property
    def _own_table(self) -> Path:
        """Where this process keeps its rows."""
        return self.table if self.part is None else self.part.folder(self.folder) / TABLE

    @abstractmethod
    def check_map(self, path: Path, row: AnyRow) -> bool:
        """Whether a map is readable and of the row's size; may raise DataError or OSError where it is not."""

    @abstractmethod
    def check_samples(self, path: Path, row: AnyRow) -> bool:
        """The same of a file with the samples of a region."""

    def check_dicom(self, path: Path, row: AnyRow) -> bool:
        """The same of a DICOM object; of these there are none unless a subclass writes them."""
        return False

    @abstractmethod
    def shape(self, row: AnyRow) -> tuple[int, ...]:
        """Return the shape of a map as an array."""

    def path(self, name: str, kind: str, region: str | None = None, suffix: str | None = None) -> Path:
        """Return where a map goes: ``<name>_<kind>``, or ``<name>_<region>_<kind>`` of several regions."""
        suffix = suffix or {"panel": ".png", "samples": self.samples_suffix}.get(kind, self.suffix)
        return self.folder / file_name(name, kind, suffix, region if len(self.regions) > 1 else None)

    def archive(self, name: str) -> Path:
        """Return where the samples go as an ``.npz``."""
        return self.path(name, "samples", suffix=".npz")

    def dicom(self, name: str) -> dict[str, Path]:
        """Return where the DICOM objects of an image go, by kind; none where they are not wanted."""
        return {kind: self.path(name, kind, suffix=".dcm") for kind in DICOM if self.outputs.dicom_seg}

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
        files += self.dicom(name).values()
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
            whole = (self.num_samples, len(self.regions), *self.shape(row))
            if self.outputs.samples == "npz" and not archive_is_whole(self.archive(name), whole):
                return False
            if not all(self.check_dicom(path, row) for path in self.dicom(name).values()):
                return False
            return not self.outputs.panel or self.path(name, "panel").is_file()
        except Exception:  # whatever reading a damaged file brings about
            return False

    def write_archive(self, name: str, shape: tuple[int, ...], samples: Iterable[np.ndarray]) -> None:
        """Write the samples of an image; see :func:`~diffmedseg.prediction.archives.write_archive`.

        Args:
            name: The image's name.
            shape: Shape of a map.
            samples: S arrays (K, ...), bool.
        """
        write_archive(self.archive(name), self.regions, (self.num_samples, len(self.regions), *shape), samples)

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
            remove_results(self.folder, name, self.regions)
        if known and self.table.is_file():
            self.write_table(list(self.rows))
            self.publish()

    def write_table(self, order: Sequence[str]) -> None:
        """Write the rows of this process: the images of ``order`` first, then those of earlier calls."""
        self._write_text(self._own_table, self._form.as_text(order, self.rows))

    def publish(self) -> None:
        """Write ``predictions.csv`` from the tables of all parts that have begun; nothing where there are no parts.

        Several parts may end at once. Each looks again after it wrote, so that the last one to write has read all.
        """
        if self.part is None:
            return
        text = ""
        while (found := self._form.as_text(list(self._owners), self._rows_of_all())) != text:
            text = found
            self._write_text(self.table, text)

    def _rows_of_all(self) -> dict[str, list[AnyRow]]:
        """Return the rows of the parts that have begun, and of all other images those of earlier calls."""
        assert self.part is not None
        tables = {number: Part(number, self.part.of).folder(self.folder) / TABLE for number in {*self._owners.values()}}
        begun = {number: self._form.read(table) for number, table in tables.items() if table.is_file()}
        earlier = self._form.read(self.table)
        rows = {name: found for name, found in earlier.items() if self._owners.get(name) not in begun}
        for found in begun.values():
            rows |= found
        return rows

    @staticmethod
    def _write_text(path: Path, text: str) -> None:
        write_whole(path, lambda temporary: temporary.write_bytes(text.encode()))

    def begin(self) -> None:
        """Make the folder, and write ``predictions.yaml``, which marks it as one of predictions.

        With ``overwrite`` the results of earlier calls go now. The tables of parts that ended become one.

        Raises:
            DataError: If the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._locked:
                self._take_lock()
                self._look(resume=False)  # another process may have come between
            if self._overwrite:
                remove_earlier(self.folder)
            if self.part is not None:
                self._begin_part(self.part)
                return
            if part_tables(self.folder):
                self.write_table(list(self.rows))
            write_whole(self._written, self._write_description)
            remove_parts(self.folder)
        except OSError as error:
            raise DataError(f"Cannot write to {self.folder} ({error}): choose another folder.") from error

    def _begin_part(self, part: Part) -> None:
        """Take the part, and agree with the other parts on settings and inputs."""
        own = part.folder(self.folder)
        own.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.enter_context(lock_folder(own))
        except BlockingIOError as error:
            raise DataError(
                f"Another process segments part {part.number} of {part.of} in {self.folder}. Wait until it ends."
            ) from error
        if not write_first(self._written, self._write_description):
            self._check_settings()
            if self._division != read_yaml(self._written).get(OF_PARTS):  # of one process, whose results are kept
                write_whole(self._written, self._write_description)
        self.write_table(list(self.rows))

    def _write_description(self, path: Path) -> None:
        said = self._settings | {_OUTPUTS: self._describe_outputs()}
        if self._division is not None:
            said |= {OF_PARTS: self._division}
        path.write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")

    def _describe_outputs(self) -> dict[str, Any]:
        return {
            "maps": list(self.kinds),
            "samples": self.outputs.samples,
            "labels": dict(labels) if (labels := self.labels or self.labels_before) else None,
            "pixel_size": None if self.outputs.pixel_size is None else list(self.outputs.pixel_size),
            "dicom_seg": self.outputs.dicom_seg,
            "columns": self._form.columns,
        }
