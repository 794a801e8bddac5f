"""Where runs write: ``<runs>/<experiment>/version_<n>``, found again when a run goes on."""

import os
import re
from csv import DictReader
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from diffmedseg.errors import NoRunError as NoRunError


def new_run(folder: Path, kind: str) -> Path:
    """Make the next free ``<folder>/<kind>_<n>``, which no other run can take."""
    number = max((number for number, _ in _numbered(folder, kind)), default=-1) + 1
    while True:
        try:
            (folder / f"{kind}_{number}").mkdir(parents=True)
            return folder / f"{kind}_{number}"
        except FileExistsError:
            number += 1


def newest_run(folder: Path) -> Path:
    """Return the newest training run of an experiment that wrote a checkpoint.

    Raises:
        NoRunError: If there is none.
    """
    runs = [path for _, path in sorted(_numbered(folder, "version")) if (path / "checkpoints" / "last.ckpt").is_file()]
    if not runs:
        raise NoRunError(
            f"There is no run to continue under {folder}: no version_*/checkpoints/last.ckpt. "
            "Train without --ckpt_path last first."
        )
    return runs[-1]


def _numbered(folder: Path, kind: str) -> list[tuple[int, Path]]:
    paths = folder.glob(f"{kind}_*") if folder.is_dir() else []
    return [(int(match[1]), path) for path in paths if (match := re.fullmatch(rf"{kind}_(\d+)", path.name))]


class RunLogger(CSVLogger):
    """Logs to ``metrics.csv`` in a run's folder and, where the run goes on, keeps the rows that are there.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=20)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """Return the writer; Lightning's own deletes what an earlier part of the run logged."""
        if self._experiment is None:
            metrics, kept = Path(self.log_dir) / "metrics.csv", Path(self.log_dir) / "metrics.csv.kept"
            if metrics.is_file():
                os.replace(metrics, kept)
            writer = ExperimentWriter(log_dir=self.log_dir)
            if kept.is_file():
                os.replace(kept, metrics)
                with metrics.open(newline="") as file:
                    writer.metrics_keys = list(DictReader(file).fieldnames or [])
            self._experiment = writer
        return self._experiment  # type: ignore[return-value]  # Lightning declares the base class
