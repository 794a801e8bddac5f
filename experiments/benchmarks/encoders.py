"""Pretrained encoders on ISIC 2017: effects of pretraining, normalisation and learning rate after equal steps.

- ``python experiments/benchmarks/encoders.py train /path/to/isic2017`` trains and scores all runs without scores, and
  resumes stopped runs.
- ``... collect`` collects the scores of every case in encoders.csv beside this file.
- ``... table`` prints mean Dice and the paired difference from the pretrained encoder.

Every run has the same number of steps, and is scored on the seeded tenth of the training images, which is never
reported. Its last averaged weights are scored: no checkpoint is chosen.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from rows import paired, read_rows, with_earlier, write_rows
from training import train_run

from diffmedseg.metrics import bootstrap_interval

SCORES = Path(__file__).with_suffix(".csv")
COLUMNS = ("dice", "dice_prior", "diversity")
RUN = ("variant", "image_size", "steps", "seed")
START = "pretrained"
LITE, BASELINE = "medsegdiff-lite", "supervised"
ENCODER = ["--encoder=lite0"]
SLOW = "--model.encoder_lr=0.3"
FROZEN = "--model.denoiser.encoder_frozen_norm=true"
#: EfficientNet-Lite was trained on images in [-1, 1]; this is the normalisation of most other encoders.
WRONG = [
    "--model.denoiser.encoder_mean=[0.485, 0.456, 0.406]",
    "--model.denoiser.encoder_std=[0.229, 0.224, 0.225]",
]
#: The model and the arguments of the command line, by name of the variant.
VARIANTS: dict[str, tuple[str, list[str]]] = {
    START: (LITE, [*ENCODER, SLOW]),
    "random weights": (LITE, [*ENCODER, SLOW, "--encoder_weights=none"]),
    "wrong normalisation": (LITE, [*ENCODER, SLOW, *WRONG]),
    "encoder_lr=1": (LITE, [*ENCODER, "--model.encoder_lr=1"]),
    "encoder_lr=0.1": (LITE, [*ENCODER, "--model.encoder_lr=0.1"]),
    "frozen norm": (LITE, [*ENCODER, SLOW, FROZEN]),
    "wrong normalisation, frozen norm": (LITE, [*ENCODER, SLOW, FROZEN, *WRONG]),
    "own network": (LITE, []),
    "baseline, pretrained": (BASELINE, [*ENCODER, SLOW]),
    "baseline, random weights": (BASELINE, [*ENCODER, SLOW, "--encoder_weights=none"]),
    "baseline, own network": (BASELINE, []),
}


def train(
    root: Path,
    runs: Path = Path("runs/encoders"),
    steps: int = 300,
    image_size: int = 64,
    seeds: list[int] = [0, 1],  # noqa: B006
    only: list[str] = [],  # noqa: B006
    lr: float = 5e-4,
    settings: list[str] = [],  # noqa: B006
) -> None:
    """Train and score every variant and seed without scores.

    Args:
        root: Folder that contains the official folders of ISIC 2017.
        runs: Folder of the runs.
        steps: Training steps of every run.
        image_size: Side of the images in pixels.
        seeds: Seeds of the new weights, the order and the noise.
        only: Names of VARIANTS; all if empty.
        lr: Learning rate of AdamW.
        settings: Further settings of every run.
    """
    common = [
        f"--data.root={root}", "--data.reported=tenth", f"--data.image_size={image_size}", "--data.batch_size=16",
        f"--trainer.max_steps={steps}", f"--data.steps_per_epoch={steps}", "--trainer.precision=bf16-mixed",
        f"--model.optimizer.lr={lr}", "--logger=csv",
    ]  # fmt: skip
    for seed in seeds:
        for variant in only or VARIANTS:
            model, changes = VARIANTS[variant]
            seeded = [f"--seed_everything={seed}", *common, *settings, *changes]
            train_run(runs / f"{image_size}px" / str(steps), _name(variant, seed), model, "isic2017", seeded)


def _name(variant: str, seed: int) -> str:
    return f"{variant.replace(', ', '_').replace(' ', '-')}.{seed}"


def collect(runs: Path = Path("runs/encoders"), output: Path = SCORES) -> None:
    """Collect the scores of every case. Runs that are missing here keep their earlier scores.

    Args:
        runs: Folder of the runs.
        output: The table of scores.

    Raises:
        FileNotFoundError: If there is no finished run.
    """
    rows = []
    for variant in VARIANTS:
        for path in sorted(runs.glob(f"*px/*/{_name(variant, 0)[:-1]}*/version_0/cases.csv")):
            run, steps, size = path.parents[1:4]
            for case in read_rows(path):
                scores = {name: f"{float(case[name]):.4f}" if case.get(name) else "" for name in COLUMNS}
                about = {"variant": variant, "image_size": size.name[:-2], "steps": steps.name}
                about["seed"] = run.name.rpartition(".")[2]
                rows.append({**about, "case": case["case"], **scores})
    if not rows:
        raise FileNotFoundError(f"There are no finished runs in {runs}: train first.")
    write_rows(with_earlier(rows, output, run=RUN), output)


def table(scores: Path = SCORES) -> None:
    """Print mean Dice by image size, steps and variant, and the paired difference from START in the same setting.

    Scores are averaged over seeds first. The 95 % intervals are bootstrapped over images.

    Args:
        scores: The table of scores.
    """
    heads = ["px", "steps", "variant", "images", "seeds", "Dice", f"difference from {START}", "by seed"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    rows = read_rows(scores)
    settings = {(int(row["image_size"]), int(row["steps"])) for row in rows}
    for size, steps in sorted(settings):
        dice = _dice(row for row in rows if (int(row["image_size"]), int(row["steps"])) == (size, steps))
        for variant in (name for name in VARIANTS if name in dice):
            by_seed, start = dice[variant], dice[START]
            shared = [seed for seed in by_seed if seed in start and variant != START]
            differences = [paired(by_seed[seed], start[seed]) for seed in shared]
            mean = np.mean([np.mean(list(values.values())) for values in by_seed.values()])
            cells = [
                str(size),
                str(steps),
                variant,
                str(len(next(iter(by_seed.values())))),
                str(len(by_seed)),
                f"{mean:.4f}",
            ]
            cells += [
                _with_interval(np.mean(differences, 0)) if differences else "",
                ", ".join(f"{difference.mean():+.4f}" for difference in differences),
            ]
            print(f"| {' | '.join(cells)} |")


def _dice(rows: Iterable[Mapping[str, str]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the Dice of every case, by variant and seed."""
    dice: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        dice[row["variant"]][row["seed"]][row["case"]] = float(row["dice"])
    return dice


def _with_interval(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    auto_cli([train, collect, table], as_positional=True)
