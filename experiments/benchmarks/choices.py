"""MedSegDiff's settings, one changed at a time, on the seeded tenth of the training images of ISIC 2017.

``python experiments/benchmarks/choices.py train --root /path/to/isic2017`` trains and scores what is not there yet,
``... collect`` gathers the scores in choices.csv beside this file, ``... table`` prints the table of that file.
All runs see the same images and take the same number of steps and of network rows, but ``base``, whose steps cost more.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from diffmedseg.metrics.bootstrap import bootstrap_interval

SCORES = Path(__file__).with_suffix(".csv")
PLAIN, CONTROL, STEPS = "default", "supervised", 2000

MODEL = "--model.init_args."
LOSS = f"{MODEL}loss=diffmedseg.diffusion.DiffusionLoss"
SQUARED = [LOSS, f"{MODEL}loss.init_args.bce=0", f"{MODEL}loss.init_args.mse=1"]

#: What each variant changes on the command line.
VARIANTS: dict[str, list[str]] = {
    PLAIN: [],
    "input_scale=0.1": [f"{MODEL}process.init_args.input_scale=0.1"],
    "dice=1": [LOSS, f"{MODEL}loss.init_args.dice=1"],
    "prediction=v": [f"{MODEL}process.init_args.prediction=v", *SQUARED],
    "input_scale=0.1 dice=1": [f"{MODEL}process.init_args.input_scale=0.1", LOSS, f"{MODEL}loss.init_args.dice=1"],
    # Four images at four levels: as many rows through the network as sixteen images at one.
    "noise_levels=4": [f"{MODEL}noise_levels=4", "--data.init_args.batch_size=4"],
    "weighting=snr_plus_one": [LOSS, f"{MODEL}loss.init_args.weighting=snr_plus_one"],
    # The time of 2,000 steps of the tiny network, by the ratio of their times, side by side: 335 and 790 ms.
    "size=base": [f"{MODEL}denoiser.init_args.size=base", "--trainer.max_steps=850", "--data.steps_per_epoch=850"],
    CONTROL: [],
    "input_scale=1": [f"{MODEL}process.init_args.input_scale=1"],
    "prediction=epsilon": [f"{MODEL}process.init_args.prediction=epsilon", *SQUARED],
}
WITHOUT_EMA = "no EMA"  # the raw weights of the default's runs: costs no training


def _run(arguments: list[str], log: Path) -> None:
    with log.open("a") as file:
        subprocess.run([sys.executable, "-m", "diffmedseg", *arguments], check=True, stdout=file, stderr=file)


def _without_average(run: Path) -> Path:
    """Write a checkpoint whose weights are the raw ones."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    raw = checkpoint["current_model_state"]
    checkpoint["state_dict"] = {key: raw[key] for key in checkpoint["state_dict"]}
    torch.save(checkpoint, run / "checkpoints" / "raw.ckpt")
    return run / "checkpoints" / "raw.ckpt"


def train(root: Path, runs: Path = Path("runs/choices"), seeds: list[int] = [0, 1], only: list[str] = []) -> None:  # noqa: B006
    """Train and score every variant and seed that has no scores yet.

    Args:
        root: Folder that holds the official folders of ISIC 2017.
        runs: Where runs are written.
        seeds: Seeds.
        only: Variants; all when empty.
    """
    runs.mkdir(parents=True, exist_ok=True)
    for variant, changes in VARIANTS.items():
        for seed in seeds:
            name = f"{variant}.{seed}"
            if (only and variant not in only) or list((runs / name).glob("*/cases.csv")):
                continue
            print(name, flush=True)
            log = runs / f"{name}.log"
            model = CONTROL if variant == CONTROL else "medsegdiff"
            common = ["--runs", str(runs), "--seed_everything", str(seed), "--data.root", str(root)]
            # fmt: off
            _run([
                "fit", "-c", "experiments/base.yaml", "-c", f"experiments/{model}/isic2017.yaml", *common,
                "--experiment", name, "--data.reported=tenth", f"--trainer.max_steps={STEPS}",
                f"--data.steps_per_epoch={STEPS}", "--trainer.precision=bf16-mixed",  # the last weights: none is chosen
                "--model.num_samples=4", "--model.num_steps=10", *changes,
            ], log)
            # fmt: on
            if variant == PLAIN:
                run = runs / name / "version_0"
                raw = ["--experiment", f"{WITHOUT_EMA}.{seed}", "--ckpt_path", str(_without_average(run))]
                _run(["test", "-c", str(run / "config.yaml"), *common, *raw, "--verbose=false"], log)


def collect(runs: Path = Path("runs/choices"), output: Path = SCORES) -> None:
    """Gather Dice and diversity of every image, a column for each variant and seed.

    Args:
        runs: Where runs were written.
        output: The table of scores.
    """
    columns: dict[str, dict[str, str]] = {}
    for path in sorted(runs.glob("*/*/cases.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for score in ("dice", "diversity"):
            columns[f"{path.parent.parent.name}.{score}"] = {row["case"]: f"{float(row[score]):.4f}" for row in rows}
    cases = sorted(next(iter(columns.values())))
    temporary = output.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", *columns])
        writer.writerows([case, *(column[case] for column in columns.values())] for case in cases)
    os.replace(temporary, output)


def table(scores: Path = SCORES) -> None:
    """Print the mean Dice of each variant and its paired difference from the default.

    Args:
        scores: The table of scores.
    """
    with scores.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "case"}
    print("| setting | Dice, by seed | difference from the default | 95 % interval | by seed | diversity |")
    print("|---|---|---|---|---|---|")
    for variant in (*VARIANTS, WITHOUT_EMA):
        seeds = [seed for seed in range(10) if f"{variant}.{seed}.dice" in columns]
        if not seeds:
            continue
        dice = np.stack([columns[f"{variant}.{seed}.dice"] for seed in seeds])
        diversity = np.mean([columns[f"{variant}.{seed}.diversity"] for seed in seeds])
        cells = [variant, ", ".join(f"{mean:.4f}" for mean in dice.mean(1))]
        if variant == PLAIN:
            cells += ["", "", ""]
        else:
            difference = dice - np.stack([columns[f"{PLAIN}.{seed}.dice"] for seed in seeds])
            low, high = bootstrap_interval(difference.mean(0))
            by_seed = ", ".join(f"{mean:+.4f}" for mean in difference.mean(1))
            cells += [f"{difference.mean():+.4f}", f"{low:+.4f} to {high:+.4f}", by_seed]
        print("| " + " | ".join([*cells, f"{diversity:.3f}"]) + " |")


if __name__ == "__main__":
    auto_cli([train, collect, table], as_positional=True)
