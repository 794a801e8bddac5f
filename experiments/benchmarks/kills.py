"""Test that a run that is killed many times ends like an undisturbed run, with the same checkpoints bit for bit.

Run ``python experiments/benchmarks/kills.py --kills 100``. It trains a tiny model on synthetic data from the command
line, and sends SIGKILL and SIGTERM in turn at random times after the first step of each process. It resumes with
``--ckpt_path last`` until the run is done, and compares the two runs. Processes are forked from a process with all
imports, so that each takes only a second or two.
"""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jsonargparse import auto_cli

from diffmedseg.run_log import read_whole_rows
from diffmedseg.runs import last_checkpoint

_SETTINGS = [
    *(
        "--trainer.accelerator=cpu",
        "--trainer.log_every_n_steps=1",
    ),
    *("--trainer.max_time=null", "--data.image_size=16", "--data.batch_size=2", "--data.num_train=24"),
    *("--data.num_val=4", "--data.num_test=2", "--model.num_samples=2", "--model.num_steps=1"),
    *("--data.eval_batch_size=1", "--model.val_num_steps=1"),
]


def command_line(arguments: list[str], log: Path) -> None:
    """Run ``diffmedseg`` in this forked process."""
    from diffmedseg.cli import main

    torch.set_num_threads(1)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(arguments)


@dataclass
class Tally:
    """Counts of the signals to one run, and of their effects."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    within_writes: int = 0
    too_late: int = 0
    lost: dict[str, list[int]] = field(default_factory=lambda: {"SIGKILL": [], "SIGTERM": []})


class Run:
    """A run of the command line that is restarted until it is done.

    Args:
        runs: Folder of the runs.
        settings: Settings for the command line.
    """

    def __init__(self, runs: Path, settings: list[str]) -> None:
        self.runs, self.settings, self.tally = runs, settings, Tally()
        runs.mkdir(parents=True)

    @property
    def folders(self) -> list[Path]:
        """All folders of the run, in order."""
        return sorted(self.runs.glob("*/version_*"), key=lambda path: int(path.name.split("_")[1]))

    def start(self) -> ForkServerProcess:
        """Start the command line, or resume if there is a checkpoint."""
        goes_on = any(last_checkpoint(path).is_file() for path in self.folders)
        arguments = [
            "train",
            "medsegdiff-lite",
            "synthetic",
            *self.settings,
            f"--runs={self.runs}",
            *(["--ckpt_path=last"] if goes_on else []),
        ]
        process = multiprocessing.get_context("forkserver").Process(
            target=command_line, args=(arguments, self.runs / "log.txt")
        )
        process.start()
        self.tally.starts += 1
        return process

    def steps(self) -> int:
        """Return the number of logged steps."""
        logs = [path / "metrics.csv" for path in self.folders if (path / "metrics.csv").is_file()]
        rows = read_whole_rows(logs[-1])[1] if logs else []
        return 1 + max((int(row["step"]) for row in rows if row.get("train/loss")), default=-1)

    def saved_steps(self) -> int:
        """Return the number of steps of the last checkpoint."""
        saved = [last_checkpoint(path) for path in self.folders if last_checkpoint(path).is_file()]
        return int(torch.load(saved[-1], weights_only=True)["global_step"]) if saved else 0

    def kill(self, signum: signal.Signals, delay: float) -> bool:
        """Start the command line, and send a signal some seconds after the first step.

        Returns:
            Whether the signal came before the run was done.
        """
        logged_before = self.steps()
        process = self.start()
        self._wait_for_first_row(process)
        process.join(delay)
        if process.exitcode is None:
            os.kill(process.pid or 0, signum)
        process.join()
        if process.exitcode == 0:
            self.tally.too_late += 1
            return False
        expected = -signal.SIGKILL if signum is signal.SIGKILL else 128 + signal.SIGTERM
        if process.exitcode != expected:
            raise RuntimeError(f"Exit code {process.exitcode} after {signum.name}: see {self.runs / 'log.txt'}.")
        self.tally.kills[signum.name] += 1
        self.tally.within_writes += any(self.runs.glob("*/version_*/checkpoints/.tmp-*"))
        logged = self.steps()
        if logged == logged_before:  # no new step was logged; losses by an earlier signal are counted there
            self.tally.lost[signum.name].append(0)
        else:
            self.tally.lost[signum.name].append(max(logged - self.saved_steps(), 0))
        return True

    def _wait_for_first_row(self, process: ForkServerProcess) -> None:
        def logs() -> dict[Path, int]:
            return {path: path.stat().st_mtime_ns for path in self.runs.glob("*/version_*/metrics.csv")}

        before = logs()
        while process.is_alive() and logs() == before:
            time.sleep(0.005)

    def finish(self) -> float:
        """Run the command line to its end, and return the seconds after the first row of the log."""
        process = self.start()
        self._wait_for_first_row(process)
        start = time.perf_counter()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"Exit code {process.exitcode}: see {self.runs / 'log.txt'}.")
        return time.perf_counter() - start


def is_same(a: Any, b: Any) -> bool:  # noqa: ANN401  anything that a checkpoint holds
    """Return whether two values of a checkpoint are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(is_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def is_same_checkpoint(a: Path, b: Path) -> bool:
    """Compare averaged and raw weights, optimiser, schedule, position and early stopping."""
    keys = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
    first, second = (torch.load(path, weights_only=True) for path in (a, b))
    stopping = [
        [c["callbacks"][key] for key in sorted(c["callbacks"]) if "EarlyStopping" in key] for c in (first, second)
    ]
    return all(is_same(first[key], second[key]) for key in (*keys, "global_step", "loops")) and is_same(*stopping)


def compare_rows(reference: Path, run: Path) -> tuple[int, int]:
    """Return the numbers of missing and of additional rows of losses and validation in a run's ``metrics.csv``."""
    counts = []
    for folder in (reference, run):
        rows = read_whole_rows(folder / "metrics.csv")[1]
        names = ("step", "epoch", "train/loss", "train/gradient_norm", "val/dice", "val/ged", "test/dice")
        counts.append(Counter(tuple(row.get(name, "") for name in names) for row in rows))
    return sum((counts[0] - counts[1]).values()), sum((counts[1] - counts[0]).values())


def row_of(number: int, run: Run, reference: Path) -> dict[str, object]:
    """Return the table row of a finished run: its signals, and whether it equals the undisturbed run."""
    tally, folder = run.tally, run.folders[-1]
    missing, extra = compare_rows(reference, folder)
    same = {
        name: is_same_checkpoint(*(path / "checkpoints" / f"{name}.ckpt" for path in (reference, folder)))
        for name in ("last", "best")
    }
    killed, terminated = tally.lost["SIGKILL"], tally.lost["SIGTERM"]
    return {
        "run": number,
        "sigkills": tally.kills["SIGKILL"],
        "sigterms": tally.kills["SIGTERM"],
        "within_a_write": tally.within_writes,
        "signals_too_late": tally.too_late,
        "starts": tally.starts,
        "folders": len(run.folders),
        "steps_lost_by_sigkill": sum(killed),
        "most_by_one_sigkill": max(killed, default=0),
        "steps_lost_by_sigterm": sum(terminated),
        "rows_missing": missing,
        "rows_too_many": extra,
        "last_equal": same["last"],
        "best_equal": same["best"],
    }


def main(kills: int = 100, epochs: int = 8, steps: int = 10, seed: int = 0, out: Path | None = None) -> None:
    """Print a row for each run, as CSV, and their sums.

    Args:
        kills: Number of signals that stop a training process.
        epochs: Epochs per run.
        steps: Steps per epoch.
        seed: Seed of the random times.
        out: Folder to keep the runs; None for a temporary folder.
    """
    multiprocessing.set_forkserver_preload(["diffmedseg.cli.training"])
    settings = [*_SETTINGS, f"--trainer.max_steps={epochs * steps}", f"--data.steps_per_epoch={steps}"]
    random_moment = random.Random(seed)
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        alone = Run(folder / "alone", settings)
        alone.finish()
        span = 0.5 * Run(folder / "again", settings).finish()  # a second run, without the time of imports
        rows: list[dict[str, object]] = []
        done = 0
        while done < kills:
            run, goes_on = Run(folder / f"run{len(rows)}", settings), True
            while goes_on and done < kills:
                signum = (signal.SIGKILL, signal.SIGTERM)[done % 2]
                goes_on = run.kill(signum, random_moment.uniform(0, span))
                done += goes_on
            if goes_on:
                run.finish()
            rows.append(row_of(len(rows), run, alone.folders[-1]))
            if len(rows) == 1:
                print(",".join(rows[0]), flush=True)
            print(",".join(str(value) for value in rows[-1].values()), flush=True)
        sums = {
            name: sum(int(str(row[name]) == "True" or row[name]) for row in rows) for name in rows[0] if name != "run"
        }
        print(f"sum of {len(rows)} runs,{','.join(map(str, sums.values()))}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["WANDB_MODE"] = "disabled"
    auto_cli(main)
