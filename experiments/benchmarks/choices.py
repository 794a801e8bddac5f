"""Search for MedSegDiff's settings: one change at a time from a start, on images that are never reported.

The images of ISIC 2017 are the seeded tenth of the training images. Synthetic lesions have 192 test images, beyond the
64 reported ones. They have four raters, so they show whether a gain in Dice makes samples less like the raters' masks.

- ``python experiments/benchmarks/choices.py train isic2017 --root /path/to/isic2017`` (or ``train synthetic``) trains
  and scores the remaining runs.
- ``collect isic2017`` collects the scores beside this file.
- ``table isic2017`` prints the table.

``--member lite`` selects the search for MedSegDiff-Lite; the default is V1. All runs of a data set have the same number
of steps, and the same number of rows through the network. There are two exceptions. ``size=base`` has fewer steps,
which cost more. And MedSegDiff-Lite runs its condition network once per image, for any number of noise levels.
"""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from rows import read_rows, write_rows
from training import EVEN_DDIM

from diffmedseg.metrics import bootstrap_interval

Data = Literal["isic2017", "synthetic"]
Member = Literal["v1", "lite"]
MODELS: dict[Member, str] = {"v1": "medsegdiff", "lite": "medsegdiff-lite"}
STEPS = {"isic2017": 2000, "synthetic": 800}
SCORES = {"isic2017": ("dice", "diversity"), "synthetic": ("dice", "ged_unbiased", "diversity")}
PRIOR = "dice_prior"  # only of members with a prior
REPORTED_SYNTHETIC = [f"test-{number:04d}" for number in range(64)]
START, CONTROL = "start", "supervised"
WITHOUT_EMA = "no EMA"  # the raw weights of the first setting's runs, without another training

MODEL = "--model.init_args."
LOSS = f"{MODEL}loss=diffmedseg.diffusion.DiffusionLoss"
SQUARED = [LOSS, f"{MODEL}loss.init_args.bce=0", f"{MODEL}loss.init_args.mse=1"]

DICE = [LOSS, f"{MODEL}loss.init_args.dice=1"]

#: Start of V1's search; the yaml files have changed since. Lite's search starts from V1's result for each kind of data.
_V1_FIRST = [*EVEN_DDIM, f"{MODEL}process.init_args.input_scale=0.3", f"{MODEL}loss=null"]
_LITE_FIRST = [f"{MODEL}noise_levels=4", f"{MODEL}prior_share=0"]  # score the samples alone
FIRST: dict[Member, dict[Data, list[str]]] = {
    "v1": {"isic2017": _V1_FIRST, "synthetic": _V1_FIRST},
    "lite": {
        "isic2017": [*EVEN_DDIM, f"{MODEL}process.init_args.input_scale=0.1", *DICE, *_LITE_FIRST],
        "synthetic": [*_V1_FIRST, *_LITE_FIRST],
    },
}
#: Command-line arguments of each variant of V1.
V1: dict[str, list[str]] = {
    START: [],
    "input_scale=0.1": [f"{MODEL}process.init_args.input_scale=0.1"],
    "dice=1": DICE,
    "prediction=v": [f"{MODEL}process.init_args.prediction=v", *SQUARED],
    "input_scale=0.1 dice=1": [f"{MODEL}process.init_args.input_scale=0.1", *DICE],
    # Four images at four levels give as many rows through the network as sixteen images at one level.
    "noise_levels=4": [f"{MODEL}noise_levels=4", "--data.init_args.batch_size=4"],
    "weighting=snr_plus_one": [LOSS, f"{MODEL}loss.init_args.weighting=snr_plus_one"],
    # 850 steps take the time of 2,000 steps of the tiny network: steps of 790 and 335 ms, timed side by side.
    "size=base": [f"{MODEL}denoiser.init_args.size=base", "--trainer.max_steps=850", "--data.steps_per_epoch=850"],
    CONTROL: [],
    "input_scale=1": [f"{MODEL}process.init_args.input_scale=1"],
    "prediction=epsilon": [f"{MODEL}process.init_args.prediction=epsilon", *SQUARED],
}
LITE: dict[str, list[str]] = {
    START: [],
    "residual=false": [f"{MODEL}denoiser.init_args.residual=false"],
    "noise_levels=1": [f"{MODEL}noise_levels=1"],
    "stratified": [f"{MODEL}stratified=true"],
    # One level, as for V1, because its step is the whole network.
    "V2": [
        f"{MODEL}denoiser=diffmedseg.models.MedSegDiffV2",
        f"{MODEL}denoiser.init_args.size=tiny",
        f"{MODEL}noise_levels=1",
    ],
    CONTROL: [],
}
VARIANTS: dict[Member, dict[Data, dict[str, list[str]]]] = {
    "v1": {"isic2017": V1, "synthetic": V1},
    "lite": {
        "isic2017": {
            **LITE,
            "dice=0": [LOSS, f"{MODEL}loss.init_args.dice=0"],
            "input_scale=0.3": [f"{MODEL}process.init_args.input_scale=0.3"],
        },
        "synthetic": {
            **LITE,
            "dice=1": DICE,
            "weighting=snr_plus_one": V1["weighting=snr_plus_one"],
        },
    },
}


def train(
    data: Data,
    root: Path | None = None,
    runs: Path = Path("runs/choices"),
    seeds: list[int] = [0, 1],  # noqa: B006
    only: list[str] = [],  # noqa: B006
    member: Member = "v1",
) -> None:
    """Train and score every variant and seed without scores.

    Args:
        data: The data set.
        root: Folder that contains the official folders of ISIC 2017.
        runs: Folder of the runs.
        seeds: Seeds.
        only: Variants; all if empty.
        member: Network of the search.
    """
    runs, steps = _runs(runs, data, member), STEPS[data]
    runs.mkdir(parents=True, exist_ok=True)
    data_settings = [f"--data.root={root}", "--data.reported=tenth"] if data == "isic2017" else ["--data.num_test=256"]
    for variant, changes in VARIANTS[member][data].items():
        for seed in seeds:
            name = f"{variant}.{seed}"
            if (only and variant not in only) or list((runs / name).glob("*/cases.csv")):
                continue
            print(name, flush=True)
            log, model = runs / f"{name}.log", CONTROL if variant == CONTROL else MODELS[member]
            first = [] if variant == CONTROL else FIRST[member][data]
            common = ["--runs", str(runs), "--seed_everything", str(seed), *data_settings]
            # A single epoch: the last weights are scored, and no checkpoint is chosen.
            # fmt: off
            _run([
                "train", model, data, *common, "--name", name,
                f"--trainer.max_steps={steps}", f"--data.steps_per_epoch={steps}",
                "--trainer.max_time=null", "--trainer.precision=bf16-mixed",
                "--model.num_samples=4", "--model.num_steps=10", *first, *changes,
            ], log)
            # fmt: on
            if (member, variant) == ("v1", START):
                run = runs / name / "version_0"
                raw = ["--experiment", f"{WITHOUT_EMA}.{seed}", "--ckpt_path", str(_without_average(run))]
                _run(["test", "-c", str(run / "config.yaml"), *common, *raw, "--verbose=false"], log)


def _run(arguments: list[str], log: Path) -> None:
    with log.open("a") as file:
        subprocess.run([sys.executable, "-m", "diffmedseg", *arguments], check=True, stdout=file, stderr=file)


def _without_average(run: Path) -> Path:
    """Write a checkpoint with the raw weights instead of their average."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    raw = checkpoint["current_model_state"]
    checkpoint["state_dict"] = {key: raw[key] for key in checkpoint["state_dict"]}
    torch.save(checkpoint, run / "checkpoints" / "raw.ckpt")
    return run / "checkpoints" / "raw.ckpt"


def _runs(runs: Path, data: Data, member: Member) -> Path:
    return runs / (data if member == "v1" else f"{data}_{member}")


def _scores(data: Data, member: Member) -> Path:
    return Path(__file__).with_name(f"choices_{_runs(Path(), data, member)}.csv")


def collect(data: Data, runs: Path = Path("runs/choices"), member: Member = "v1") -> None:
    """Collect the scores of every image. Runs that are missing here keep their earlier scores.

    The table has a column for each variant, seed and score.

    Args:
        data: The data set.
        runs: Folder of the runs.
        member: Network of the search.
    """
    output = _scores(data, member)
    earlier = read_rows(output) if output.is_file() else [{"case": ""}]
    columns = {name: {row["case"]: row[name] for row in earlier} for name in earlier[0] if name != "case"}
    for path in sorted(_runs(runs, data, member).glob("*/*/cases.csv")):
        rows = [row for row in read_rows(path) if row["case"] not in REPORTED_SYNTHETIC]
        for score in (*SCORES[data], PRIOR):
            if rows[0].get(score):
                values = {row["case"]: f"{float(row[score]):.4f}" for row in rows}
                columns[f"{path.parent.parent.name}.{score}"] = values
    if not columns:
        raise FileNotFoundError(f"{_runs(runs, data, member)} holds no runs that were tested: train first.")
    cases = sorted(next(iter(columns.values())))
    write_rows([{"case": case, **{name: column[case] for name, column in columns.items()}} for case in cases], output)


def table(data: Data, member: Member = "v1") -> None:
    """Print the mean scores of each variant and their paired differences from the start.

    Args:
        data: The data set.
        member: Network of the search.
    """
    rows = read_rows(_scores(data, member))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "case"}
    *compared, diversity = SCORES[data]
    extras = [diversity, *([PRIOR] if f"{START}.0.{PRIOR}" in columns else [])]
    heads = [f"{score} | less the start's | 95 % interval | by seed" for score in compared]
    print(f"| setting | {' | '.join([*heads, *extras])} |\n|---|{'---|' * (4 * len(compared) + len(extras))}")
    measured = (name.rsplit(".", 2)[0] for name in columns)  # includes rejected variants, which have no code any more
    for variant in dict.fromkeys([*VARIANTS[member][data], *measured]):
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
        for score in extras:
            means = [columns[name].mean() for seed in seeds if (name := f"{variant}.{seed}.{score}") in columns]
            digits = 4 if score == PRIOR else 3
            cells.append(f"{np.mean(means):.{digits}f}" if means else "")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    auto_cli([train, collect, table], as_positional=True)
