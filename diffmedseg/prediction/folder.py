"""The folder of predictions: whole files only, and a table of the results."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np

from diffmedseg.atomic import is_temporary, lock_folder, remove_temporaries
from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.prediction.archives import archive_is_whole, write_archive
from diffmedseg.prediction.description import Description
from diffmedseg.prediction.outputs import DICOM, Outputs
from diffmedseg.prediction.parts import PARTS, Part, part_tables, remove_parts
from diffmedseg.prediction.removing import file_name, remove_earlier, remove_results
from diffmedseg.prediction.rows import AnyRow, RowTable, files_digest
from diffmedseg.prediction.tables import PredictionTables
from diffmedseg.reading.label_maps import label_values
from diffmedseg.wording import first_names


class PredictionFolder(ABC, Generic[AnyRow]):
    """Writes maps and the table. Each file is written whole or not at all, and no foreign file is overwritten.

    One process at a time may write to a folder, or several processes that segment a part of the inputs each;
    :meth:`opened` locks the folder. A subclass names the class of rows, and checks maps.

    Args:
        folder: Where to write; new, empty, or with earlier predictions.
        model: The model.
        settings: Settings that the results depend on, ``num_samples`` among them. All results of a folder have the same
            settings.
        outputs: The files to write; None for all maps.
        part: The part of the inputs that this process segments; None for all inputs.

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
        form = RowTable(self.row, facts, self.outputs)
        self.rows: dict[str, list[AnyRow]] = {}
        self.part, self._tables = part, PredictionTables(folder, form, part)
        self.table = self._tables.all_images
        self._description = Description(folder, settings, self.outputs, self.kinds, self.labels, form.columns)
        self._lock, self._locked, self._overwrite = ExitStack(), False, False

    def deal(self, names: Sequence[str], batch_size: int) -> set[str]:
        """Return the names of the images that this process segments. Call this method first.

        Args:
            names: Names of all inputs, in the same order in all processes.
            batch_size: Inputs that are segmented together.
        """
        return self._tables.deal(names, batch_size)

    @contextmanager
    def opened(self, resume: bool = False, overwrite: bool = False) -> Iterator[None]:
        """Lock the folder for this process, and read its table. :meth:`begin` makes a folder that is missing.

        Args:
            resume: Keep the results in the folder, and add to them.
            overwrite: Replace the results in the folder; :meth:`begin` removes them.

        Raises:
            DataError: If another process writes to the folder, the folder holds other files, it holds results and
                neither option is set, or the results to keep have other settings.
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
                self._check_content(resume)
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
        names = self._names_in_folder()
        if safe and self.part is None and (not names or self._description.path.name in names):
            remove_temporaries(self.folder)

    def _names_in_folder(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if not is_temporary(path) and path.name != PARTS]

    def _check_content(self, resume: bool) -> None:
        """Check the content of the folder, and read the rows of earlier calls."""
        names, described = self._names_in_folder(), self._description.path.name
        if names and described not in names:
            raise DataError(
                f"{self.folder} holds files that are not predictions ({first_names(names)}), which might be "
                "overwritten: choose a new folder."
            )
        if self._overwrite:
            return
        rows = self._tables.read()
        if self.part is not None and names:
            self._check_settings()
        if not rows and (set(names) <= {described, self.table.name} or self.part is not None):
            return  # an earlier call without results, or other parts
        if not resume:
            raise DataError(
                f"{self.folder} holds predictions already: go on with them by --resume, replace them by --overwrite, "
                "or choose a new folder."
            )
        self._check_settings()
        self.rows = rows

    def _check_settings(self) -> None:
        self._description.check(self._tables.division)

    @abstractmethod
    def check_map(self, path: Path, row: AnyRow) -> bool:
        """Return whether a map is readable and has the row's size. DataError and OSError also mean no."""

    @abstractmethod
    def check_samples(self, path: Path, row: AnyRow) -> bool:
        """Return whether a file with the samples of a region is readable and has the row's size."""

    def check_dicom(self, path: Path, row: AnyRow) -> bool:
        """Return whether a DICOM object is readable and has the row's size; False if the subclass writes none."""
        return False

    @abstractmethod
    def shape(self, row: AnyRow) -> tuple[int, ...]:
        """Return the shape of a map as an array."""

    def path(self, name: str, kind: str, region: str | None = None, suffix: str | None = None) -> Path:
        """Return the file of a map: ``<name>_<kind>``, or ``<name>_<region>_<kind>`` for several regions."""
        suffix = suffix or {"panel": ".png", "samples": self.samples_suffix}.get(kind, self.suffix)
        return self.folder / file_name(name, kind, suffix, region if len(self.regions) > 1 else None)

    def archive(self, name: str) -> Path:
        """Return the file of the samples as an ``.npz``."""
        return self.path(name, "samples", suffix=".npz")

    def dicom(self, name: str) -> dict[str, Path]:
        """Return the files of the DICOM objects of an image, by kind; empty without ``dicom_seg``."""
        return {kind: self.path(name, kind, suffix=".dcm") for kind in DICOM if self.outputs.dicom_seg}

    def _maps(self, name: str) -> list[Path]:
        return [self.path(name, kind, region) for region in self.regions for kind in self.kinds]

    def _samples(self, name: str) -> list[Path]:
        return [self.path(name, "samples", region) for region in self.regions]

    def _files(self, name: str) -> list[Path]:
        """Return all files that this call writes for an image."""
        files = self._maps(name)
        files += self._samples(name) if self.outputs.samples == "image" else []
        files += [self.archive(name)] if self.outputs.samples == "npz" else []
        files += [self.path(name, "labels")] if self.labels else []
        files += self.dicom(name).values()
        return files + ([self.path(name, "panel")] if self.outputs.panel else [])

    def is_whole(self, name: str, files: Callable[[], Iterable[Path]]) -> bool:
        """Return whether the results of an image are complete, readable, and of these input files."""
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
        except Exception:  # a damaged file can raise anything
            return False

    def write_archive(self, name: str, shape: tuple[int, ...], samples: Iterable[np.ndarray]) -> None:
        """Write the samples of an image; see :func:`~diffmedseg.prediction.archives.write_archive`.

        Args:
            name: The image's name.
            shape: Shape of a map.
            samples: Arrays, bool, in the order of the samples and their regions.
        """
        write_archive(self.archive(name), self.regions, (self.num_samples, len(self.regions), *shape), samples)

    def check_names(self, names: Sequence[str]) -> None:
        """Check that the results of all inputs have different file names.

        Raises:
            DataError: If two inputs share a file; the message names the file.
        """
        seen: set[Path] = set()
        for path in (path for name in names for path in self._files(name)):
            if path in seen:
                raise DataError(
                    f"Two inputs would both write {path}: rename one, or predict them into folders of their own."
                )
            seen.add(path)

    def forget(self, names: Sequence[str]) -> None:
        """Remove the earlier results of images that are segmented again, so that a failure leaves no old results."""
        known = [name for name in names if self.rows.pop(name, None) is not None]
        for name in known:
            remove_results(self.folder, name, self.regions)
        if known and self.table.is_file():
            self.write_table(list(self.rows))
            self.publish()

    def write_table(self, order: Sequence[str]) -> None:
        """Write the table of this process: the images of ``order`` first, then the images of earlier calls."""
        self._tables.write(order, self.rows)

    def publish(self) -> None:
        """Write ``predictions.csv`` of all parts; do nothing without parts."""
        self._tables.publish()

    def begin(self) -> None:
        """Make the folder, and write ``predictions.yaml``, which marks it as a folder of predictions.

        ``overwrite`` now removes the results of earlier calls. The tables of parts that have ended become one table.

        Raises:
            DataError: If the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._locked:
                self._take_lock()
                self._check_content(resume=False)  # another process may have made the folder in the meantime
            if self._overwrite:
                remove_earlier(self.folder)
            if self.part is not None:
                self._begin_part(self.part)
                return
            if part_tables(self.folder):
                self.write_table(list(self.rows))
            self._description.write(self._tables.division)
            remove_parts(self.folder)
        except OSError as error:
            raise DataError(f"Cannot write to {self.folder} ({error}): choose another folder.") from error

    def _begin_part(self, part: Part) -> None:
        """Lock the part, and compare settings and inputs with the other parts."""
        part_folder = part.folder(self.folder)
        part_folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.enter_context(lock_folder(part_folder))
        except BlockingIOError as error:
            raise DataError(
                f"Another process segments part {part.number} of {part.of} in {self.folder}. Wait until it ends."
            ) from error
        self._description.share(self._tables.division or {})
        self.write_table(list(self.rows))
