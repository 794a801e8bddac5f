"""``metrics.csv`` of a run: written row by row, and kept when the run resumes."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from diffmedseg.atomic import write_whole
from diffmedseg.errors import DataError

#: Name of the log of training and tests in a run's folder.
RUN_LOG: str = ExperimentWriter.NAME_METRICS_FILE


class RunLogger(CSVLogger):
    """Logs to ``metrics.csv`` in a run's folder, and keeps existing rows when the run resumes.

    A kill loses at most the row that is being written.

    Args:
        folder: The run's folder.
        steps: Number of steps of a resumed run so far. Rows of later steps are dropped, since the run logs them again.
            None keeps all rows.
        validates_again: Whether the resumed run repeats the validation of its last step; its row is then dropped, too.
    """

    def __init__(self, folder: str | Path, steps: int | None = None, validates_again: bool = False) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=20)
        self.steps, self.validates_again = steps, validates_again

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """Return the writer. Lightning's own writer deletes earlier rows of the run."""
        if self._experiment is None:
            self._experiment = _RunWriter(self.log_dir, self.steps, self.validates_again)
        return self._experiment  # type: ignore[return-value]  # Lightning declares the base class


class _RunWriter(ExperimentWriter):
    """Appends rows. If the header changes, the whole file is replaced."""

    def __init__(self, log_dir: str, steps: int | None, validates_again: bool) -> None:
        self.steps, self.validates_again = steps, validates_again
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        header, rows = read_whole_rows(path)
        try:
            kept_rows = [row for row in rows if self._is_kept(row)]
        except (KeyError, ValueError) as error:
            raise _damaged(path, error) from error
        if kept_rows:
            self.metrics_keys = header
            self._replace(kept_rows)
        else:
            path.unlink()

    def _is_kept(self, row: dict[str, str]) -> bool:
        if self.steps is None or int(row["step"]) < self.steps - 1:
            return True
        is_validation = any(value and name.startswith("val/") for name, value in row.items())
        return int(row["step"]) < self.steps and not (self.validates_again and is_validation)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._replace(read_whole_rows(Path(self.metrics_file_path))[1])

    def _replace(self, rows: list[dict[str, str]]) -> None:
        write_whole(Path(self.metrics_file_path), partial(self._write, rows))

    def _write(self, rows: list[dict[str, Any]], path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


def read_whole_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read the header and the rows of ``metrics.csv``. An incomplete last line is left out.

    Raises:
        DataError: If the file is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        header, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines()) if "\n" in text else [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, error) from error
    return header, [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged ({error!r}). Restore it, or move it away to start a new log.")
