"""MedSegDiff's settings, changed one at a time from where the search started, on images that are never reported.

ISIC 2017: the seeded tenth of the training images. Synthetic lesions, whose four raters tell what a gain in Dice costs
in fidelity to their distribution: 192 test images beyond the 64 that are reported.

``python experiments/benchmarks/choices.py train isic2017 --root /path/to/isic2017`` trains and scores what is not there
yet (likewise ``train synthetic``); ``collect isic2017`` gathers the scores beside this file, ``table isic2017`` prints
the table. All runs of a data set take the same number of steps with the same number of rows through the network, but
``size=base``, whose steps cost more.
"""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from rows import read_rows, write_rows

from diffmedseg.metrics import bootstrap_interval

Data = Literal["isic2017", "synthetic"]
STEPS = {"isic2017": 2000, "synthetic": 800}
SCORES = {"isic2017": ("dice", "diversity"), "synthetic": ("dice", "ged_unbiased", "diversity")}
REPORTED_SYNTHETIC = [f"test-{number:04d}" for number in range(64)]
START, CONTROL = "start", "supervised"
WITHOUT_EMA = "no EMA"  # the raw weights of the first setting's runs: costs no training

MODEL = "--model.init_args."
LOSS = f"{MODEL}loss=diffmedseg.diffusion.DiffusionLoss"
SQUARED = [LOSS, f"{MODEL}loss.init_args.bce=0", f"{MODEL}loss.init_args.mse=1"]

#: Where the search started, whatever the yaml says now.
FIRST = [f"{MODEL}process.init_args.input_scale=0.3", f"{MODEL}loss=null"]
#: What each variant changes on the command line.
VARIANTS: dict[str, list[str]] = {
    START: [],
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


def train(
    data: Data,
    root: Path | None = None,
    runs: Path = Path("runs/choices"),
    seeds: list[int] = [0, 1],  # noqa: B006
    only: list[str] = [],  # noqa: B006
) -> None:
    """Train and score every variant and seed that has no scores yet.

    Args:
        data: The data set.
        root: Folder that holds the official folders of ISIC 2017.
        runs: Where runs are written.
        seeds: Seeds.
        only: Variants; all when empty.
    """
    runs, steps = runs / data, STEPS[data]
    runs.mkdir(parents=True, exist_ok=True)
    place = [f"--data.root={root}", "--data.reported=tenth"] if data == "isic2017" else ["--data.num_test=256"]
    for variant, changes in VARIANTS.items():
        for seed in seeds:
            name = f"{variant}.{seed}"
            if (only and variant not in only) or list((runs / name).glob("*/cases.csv")):
                continue
            print(name, flush=True)
            log, model = runs / f"{name}.log", CONTROL if variant == CONTROL else "medsegdiff"
            first = [] if variant == CONTROL else FIRST
            common = ["--runs", str(runs), "--seed_everything", str(seed), *place]
            # One epoch: the last weights are scored, none are chosen.
            # fmt: off
            _run([
                "fit", "-c", "experiments/base.yaml", "-c", f"experiments/{model}/{data}.yaml", *common,
                "--experiment", name, f"--trainer.max_steps={steps}", f"--data.steps_per_epoch={steps}",
                "--trainer.max_time=null", "--trainer.precision=bf16-mixed",
                "--model.num_samples=4", "--model.num_steps=10", *first, *changes,
            ], log)
            # fmt: on
            if variant == START:
                run = runs / name / "version_0"
                raw = ["--experiment", f"{WITHOUT_EMA}.{seed}", "--ckpt_path", str(_without_average(run))]
                _run(["test", "-c", str(run / "config.yaml"), *common, *raw, "--verbose=false"], log)


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


def _scores(data: Data) -> Path:
    return Path(__file__).with_name(f"choices_{data}.csv")


def collect(data: Data, runs: Path = Path("runs/choices")) -> None:
    """Gather the scores of every image, a column for each variant, seed and score.

    Args:
        data: The data set.
        runs: Where runs were written.
    """
    columns: dict[str, dict[str, str]] = {}
    for path in sorted((runs / data).glob("*/*/cases.csv")):
        rows = [row for row in read_rows(path) if row["case"] not in REPORTED_SYNTHETIC]
        for score in SCORES[data]:
            columns[f"{path.parent.parent.name}.{score}"] = {row["case"]: f"{float(row[score]):.4f}" for row in rows}
    cases, output = sorted(next(iter(columns.values()))), _scores(data)
    write_rows([{"case": case, **{name: column[case] for name, column in columns.items()}} for case in cases], output)


def table(data: Data) -> None:
    """Print the mean scores of each variant and their paired differences from the start.

    Args:
        data: The data set.
    """
    rows = read_rows(_scores(data))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "case"}
    *compared, diversity = SCORES[data]
    heads = [f"{score} | less the start's | 95 % interval | by seed" for score in compared]
    print(f"| setting | {' | '.join(heads)} | {diversity} |\n|---|{'---|' * (4 * len(compared) + 1)}")
    for variant in (*VARIANTS, WITHOUT_EMA):
        seeds = [seed for seed in range(10) if f"{variant}.{seed}.dice" in columns]
        if not seeds:
            continue
        cells = [variant]
        for score in compared:
            values = np.stack([columns[f"{variant}.{seed}.{score}"] for seed in seeds])
            cells.append(f"{values.mean():.4f}")
            if variant == START:
                cells += ["", "", ""]
                continue
            difference = values - np.stack([columns[f"{START}.{seed}.{score}"] for seed in seeds])
            low, high = bootstrap_interval(difference.mean(0))
            by_seed = ", ".join(f"{mean:+.4f}" for mean in difference.mean(1))
            cells += [f"{difference.mean():+.4f}", f"{low:+.4f} to {high:+.4f}", by_seed]
        cells.append(f"{np.mean([columns[f'{variant}.{seed}.{diversity}'].mean() for seed in seeds]):.3f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    auto_cli([train, collect, table], as_positional=True)
