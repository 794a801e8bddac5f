"""Cross-validation of MedSegDiff and baselines on small data sets: every patient is in one test fold.

- ``python experiments/benchmarks/folds.py train brats2015 /path/to/brats2015`` (or ``lgg``, ``chase``, ``lidc``) trains
  the remaining folds.
- ``... humans chase /path/to/chase`` compares the raters of a data set with each other.
- ``... collect`` collects the scores of every case in folds.csv beside this file.
- ``... table`` prints the tables.
"""

from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from rows import read_rows, with_earlier, write_rows
from training import EVEN_DDIM, train_run

from diffmedseg.data.configured import build_data
from diffmedseg.experiments import data_config
from diffmedseg.metrics import generalized_energy_distance
from diffmedseg.metrics.centreline import centreline_dice
from diffmedseg.metrics.functional import dice_from_counts

Data = Literal["brats2015", "lgg", "chase", "lidc"]

FOLDS = {"brats2015": 4, "lgg": 5, "chase": 5, "lidc": 5}  # for brains, a fold for each patient
#: Settings of the reported results.
SETTINGS = {"chase": ["--data.split_by=folds", "--data.image_size=256", "--data.patch=64"]}
#: Half of the encoder and a narrow decoder have a quarter of the weights, and the same scores on LIDC
#: (docs/results/ambiguity.md).
HALF_ENCODER = ["--model.denoiser.encoder_depth=4", "--model.denoiser.decoder_channels=[64, 48, 32, 16]"]
NEIGHBOURS = ["--data.context=1"]
#: Three-dimensional networks have the grid of the networks with an encoder, and patches of 64 x 64 x 32.
STACKS = ["--data.image_size=128"]
SUPERVISED_STACKS = [*STACKS, "--data.depth=32", "--data.patch=64", "--data.batch_size=2"]
#: Settings by model. ``supervised+lite0`` is a model with an encoder. ``+context`` adds a neighbouring slice on each
#: side, and ``+stacks`` makes the baseline three-dimensional.
MODELS: dict[str, list[str]] = {
    "medsegdiff-v1": EVEN_DDIM,
    "medsegdiff-lite": [],
    "supervised": [],
    "medsegdiff-lite+lite0": HALF_ENCODER,
    "supervised+lite0": HALF_ENCODER,
    "medsegdiff-lite+lite0+context": [*HALF_ENCODER, *NEIGHBOURS],
    "supervised+lite0+context": [*HALF_ENCODER, *NEIGHBOURS],
    "medsegdiff-lite-3d": STACKS,
    "supervised+stacks": SUPERVISED_STACKS,
}
#: The encoder of a model, by the second part of its name.
ENCODERS = ("lite0",)
HUMANS = "raters"
SCORES = Path(__file__).with_suffix(".csv")
COLUMNS = ("dice", "hd95", "nsd", "cl_dice", "ged_unbiased", "uncertainty", "diversity")
TITLES = {"dice": "Dice", "hd95": "HD95", "nsd": "NSD at 1 mm", "cl_dice": "clDice", "ged_unbiased": "GED (unbiased)"}


def train(
    data: Data,
    root: Path,
    runs: Path = Path("runs/folds"),
    steps: int = 3000,
    folds: list[int] = [],  # noqa: B006
    only: list[str] = [],  # noqa: B006
    seed: int = 0,
) -> None:
    """Train the remaining folds.

    Args:
        data: The data set.
        root: Folder that contains the cases.
        runs: Folder of the runs.
        steps: Training steps of each run.
        folds: Folds; all if empty.
        only: Keys of MODELS; all if empty.
        seed: Seed of the training. Give each seed its own folder of runs.
    """
    for fold in folds or range(FOLDS[data]):
        for model, model_settings in MODELS.items():
            if only and model not in only:
                continue
            name, *parts = model.split("+")
            settings = [
                "--data.root", str(root), f"--data.folds={FOLDS[data]}", f"--data.fold={fold}",
                f"--trainer.max_steps={steps}", *SETTINGS.get(data, []), *model_settings,
                f"--seed_everything={seed}", *(f"--encoder={part}" for part in parts if part in ENCODERS),
            ]  # fmt: skip
            train_run(runs, f"{data}.{model}.{fold}", name, data, settings)


def humans(data: Data, root: Path, runs: Path = Path("runs/folds")) -> None:
    """Score raters against each other, and write ``<data>.raters.0/version_0/cases.csv``.

    Dice and clDice are means over pairs of raters. For GED, one rater is the only sample, and the other raters are the
    reference; at least two are needed.

    Args:
        data: The data set.
        root: Folder that contains the cases.
        runs: Folder of the runs.
    """
    config = data_config(data)
    config["init_args"] |= {"root": str(root), "folds": FOLDS[data], "split_by": "folds"}
    module = build_data(config)
    rows = []
    for split in ("train", "val", "test"):
        store = module.load(split)
        for index, case in enumerate(store.cases):
            raters, seen = store.reference(index)[:, 0].bool(), store.field_of_view(index)
            raters = raters if seen is None else raters & seen
            pairs = list(combinations(raters, 2))
            dice = [dice_from_counts((a & b).sum(), (a & ~b).sum(), (~a & b).sum()) for a, b in pairs]
            lines = [centreline_dice(a, b) for a, b in pairs] if module.info.tubular else []
            # A rater always draws the same mask, which makes two equal samples.
            energy = [
                generalized_energy_distance(raters[[r, r]], torch.cat([raters[:r], raters[r + 1 :]])).unbiased
                for r in range(len(raters) if len(raters) > 2 else 0)
            ]
            row = dict.fromkeys(("case", "region", *COLUMNS), "")
            row |= {"case": case, "region": module.info.regions[0], "dice": np.mean([float(value) for value in dice])}
            row |= {"cl_dice": np.mean(lines)} if lines else {}
            row |= {"ged_unbiased": np.mean([float(value) for value in energy])} if energy else {}
            rows.append(row)
    unique = {row["case"]: row for row in rows}  # validation cases may be training cases, too
    write_rows(list(unique.values()), runs / f"{data}.{HUMANS}.0" / "version_0" / "cases.csv")


def collect(runs: Path = Path("runs/folds"), output: Path = SCORES) -> None:
    """Collect the scores of every case. Folds that are missing here keep their earlier scores.

    Args:
        runs: Folder of the runs.
        output: The table of scores.
    """
    rows = []
    for path in sorted(runs.glob("*/version_0/cases.csv")):
        data, model, fold = path.parts[-3].split(".")
        for row in read_rows(path):
            scores = {name: f"{float(row[name]):.4f}" if row[name] else "" for name in COLUMNS}
            rows.append(
                {"data": data, "model": model, "fold": fold, "case": row["case"], "region": row["region"], **scores}
            )
    write_rows(with_earlier(rows, output, run=["data", "model", "fold"]), output)


def table(scores: Path = SCORES) -> None:
    """Print the scores of every case of a data set, and their means.

    Args:
        scores: The table of scores.
    """
    rows = read_rows(scores)
    cells = {(row["data"], row["region"], row["case"], row["model"]): row for row in rows}
    for data in dict.fromkeys(row["data"] for row in rows):
        data_rows = [row for row in rows if row["data"] == data]
        names = dict.fromkeys((*MODELS, HUMANS, *(row["model"] for row in data_rows)))
        models = [model for model in names if any(row["model"] == model for row in data_rows)]
        shown = [
            (score, model)
            for score in TITLES
            for model in models
            if any(row["model"] == model and row[score] for row in data_rows)
        ]
        heads = [f"{TITLES[score]}, {model}" for score, model in shown]
        print(f"| {data} | case | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
        for region in dict.fromkeys(row["region"] for row in data_rows):
            cases = sorted({row["case"] for row in data_rows if row["region"] == region})
            texts_of_cases = [
                [cells.get((data, region, case, m), {}).get(score) for score, m in shown] for case in cases
            ]
            values = np.array([[float(text or "nan") for text in line] for line in texts_of_cases])
            # A mean over only some cases is not comparable, so it is left out.
            for case, line in zip([*cases, f"mean of {len(cases)}"], [*values, values.mean(0)], strict=True):
                texts = ["" if np.isnan(value) else f"{value:.3f}" for value in line]
                print(f"| {region} | {case} | {' | '.join(texts)} |")
        print()


if __name__ == "__main__":
    auto_cli([train, humans, collect, table], as_positional=True)
