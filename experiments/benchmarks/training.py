"""Training runs for tables. Each run is trained once, and resumed if it was stopped."""

import subprocess
import sys
from pathlib import Path

#: Even steps of DDIM, as in V1's reported tables. The default sampler has changed since.
EVEN_DDIM = [
    "--model.init_args.reverse=diffmedseg.diffusion.ReverseProcess",
    "--model.init_args.reverse.init_args.scheduler=diffusers.DDIMScheduler",
    "--model.init_args.reverse.init_args.spacing=1",
]


def train_run(runs: Path, name: str, model: str, data: str, settings: list[str], preset: str | None = "cpu") -> None:
    """Train and test a run without scores.

    Without ``--encoder`` in its settings the model has its own network, whatever encoder the data set recommends.

    Args:
        runs: Folder of the runs.
        name: Name of the run. Its log is ``<name>.log``.
        model: Name of the model.
        data: Name of the data set.
        settings: Further arguments.
        preset: Name of the preset; None for none.

    Raises:
        ValueError: If the folder of the run has a run with other settings.
    """
    folder = runs / name / "version_0"
    _check_settings(runs / f"{name}.settings", [model, data, str(preset), *settings])
    if (folder / "cases.csv").is_file():
        return
    print(name, flush=True)
    began = (folder / "checkpoints" / "last.ckpt").is_file()
    options = [
        "--runs",
        str(runs),
        "--name",
        name,
        *([] if preset is None else ["--preset", preset]),
        *(["--ckpt_path=last"] if began else []),
    ]
    own_network = [] if any(setting.startswith("--encoder=") for setting in settings) else ["--encoder=none"]
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / f"{name}.log").open("a") as log:
        command = [sys.executable, "-m", "diffmedseg", "train", model, data, *options, *own_network, *settings]
        subprocess.run(command, check=True, stdout=log, stderr=log)


def _check_settings(record: Path, settings: list[str]) -> None:
    """Record the settings of a run, or compare them with the recorded settings.

    Raises:
        ValueError: If the recorded settings differ.
    """
    if record.is_file() and (recorded := record.read_text(encoding="utf-8").splitlines()) != settings:
        raise ValueError(
            f"{record} has the settings {' '.join(recorded)}. The present settings are {' '.join(settings)}. Choose "
            f"another --runs, or delete {record.with_suffix('')} and this file."
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("\n".join(settings), encoding="utf-8")
