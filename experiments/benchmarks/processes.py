"""Time of a run on 1, 2 or more processes, and differences between the trained models.

``python experiments/benchmarks/processes.py`` trains on synthetic lesions, on the numbers of CPU processes or GPUs in
``--processes``, with one thread for each CPU process. The processes divide a batch. The whole batch, its order and its
noise are always the same.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jsonargparse import auto_cli
from rows import read_rows
from timing import hardware


def main(
    processes: list[int] = [1, 2, 4],  # noqa: B006
    steps: int = 60,
    batch: int = 16,
    model: str = "medsegdiff",
    accelerator: str = "cpu",
    image_size: int = 64,
) -> None:
    """Print images per second, the speed-up, and the largest differences from one process, by number of processes.

    Args:
        processes: Numbers of processes, each a divisor of the batch.
        steps: Training steps.
        batch: Images per step, over all processes.
        model: Name of the model.
        accelerator: ``cpu`` or ``gpu``.
        image_size: Side of the images in pixels.
    """
    settings = [
        f"--trainer.max_steps={steps}", f"--data.steps_per_epoch={steps}", "--trainer.precision=32-true",
        "--early_stopping=false", "--trainer.num_sanity_val_steps=0", f"--trainer.accelerator={accelerator}",
        "--trainer.log_every_n_steps=10", f"--data.image_size={image_size}", "--data.num_val=16", "--data.num_test=32",
        "--logger=csv",
    ]  # fmt: skip
    runs: dict[int, Path] = {}
    with TemporaryDirectory() as folder:
        for number in processes:
            runs[number] = train(Path(folder), number, model, [*settings, f"--data.batch_size={batch // number}"])
        print(f"{hardware()}; {model}, {image_size} px, {steps} steps of {batch} images, {accelerator}\n")
        print("| processes | images per second | speed-up | loss differs by | weights differ by | Dice differs by |")
        print("|---" * 6 + "|")
        first, *_ = runs.values()
        for number, run in runs.items():
            rate = images_per_second(run)
            differences = [f"{value:.1e}" for value in compare(run, first)]
            print(f"| {number} | {rate:.1f} | {rate / images_per_second(first):.2f} | {' | '.join(differences)} |")


def train(runs: Path, number: int, model: str, settings: Sequence[str]) -> Path:
    """Train on a number of processes; return the run's folder."""
    options = ["--runs", str(runs), "--name", f"processes_{number}"]
    several = ["--trainer.strategy=ddp", f"--trainer.devices={number}"] if number > 1 else []
    command = [sys.executable, "-m", "diffmedseg", "train", model, "synthetic", *options, *several, *settings]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=os.environ | threads, stdout=subprocess.DEVNULL)
    return runs / f"processes_{number}" / "version_0"


def images_per_second(run: Path) -> float:
    """Return the rate over the whole first epoch, including its first steps."""
    return [float(row["train/images_per_second"]) for row in read_rows(run / "metrics.csv") if _trained(row)][-1]


def compare(run: Path, first: Path) -> tuple[float, float, float]:
    """Return the largest differences of training losses, weights, and Dice of test cases."""
    losses, dices = (
        [[float(row[column]) for row in read_rows(folder / file) if row.get(column)] for folder in (run, first)]
        for file, column in (("metrics.csv", "train/loss"), ("cases.csv", "dice"))
    )
    weights_of_run, weights_of_first = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (run, first)
    )
    weights = max(float((weights_of_run[name] - weights_of_first[name]).abs().max()) for name in weights_of_run)
    loss, dice = (max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in (losses, dices))
    return loss, weights, dice


def _trained(row: dict[str, str]) -> bool:
    return bool(row.get("train/images_per_second"))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
