"""Brain MRI, every patient tested once by models trained on the others: MedSegDiff-V1 and the supervised control.

``python experiments/benchmarks/brain_folds.py train brats2015 /path/to/brats2015`` (likewise ``lgg``) trains the folds
that are not trained yet; ``... collect`` gathers the scores of every case into brain_folds.csv beside this file;
``... table`` prints its table.
"""

import csv
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse import auto_cli
from training import train_run

from diffmedseg.atomic import write_whole

FOLDS = {"brats2015": 4, "lgg": 5}  # as many as there are patients
MODELS = ("medsegdiff", "supervised")
SCORES = Path(__file__).with_suffix(".csv")
COLUMNS = ("dice", "hd95", "nsd", "uncertainty", "diversity")


def train(
    data: Literal["brats2015", "lgg"],
    root: Path,
    runs: Path = Path("runs/brain_folds"),
    steps: int = 3000,
    folds: list[int] = [],  # noqa: B006
) -> None:
    """Train what is not trained yet.

    Args:
        data: The data set.
        root: Folder that holds its cases.
        runs: Where runs are written.
        steps: Steps of each run.
        folds: Folds; all when empty.
    """
    for fold in folds or range(FOLDS[data]):
        for model in MODELS:
            settings = [
                "--data.root", str(root), f"--data.folds={FOLDS[data]}", f"--data.fold={fold}",
                f"--trainer.max_steps={steps}",
            ]  # fmt: skip
            files = ["base.yaml", f"{model}/{data}.yaml", f"{model}/cpu.yaml"]
            train_run(runs, f"{data}.{model}.{fold}", files, settings)


def collect(runs: Path = Path("runs/brain_folds"), output: Path = SCORES) -> None:
    """Gather the scores of every case.

    Args:
        runs: Where runs were written.
        output: The table of scores.
    """
    rows = []
    for path in sorted(runs.glob("*/version_0/cases.csv")):
        data, model, fold = path.parts[-3].split(".")
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                scores = {name: f"{float(row[name]):.4f}" if row[name] else "" for name in COLUMNS}
                rows.append(
                    {"data": data, "model": model, "fold": fold, "case": row["case"], "region": row["region"], **scores}
                )

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_whole(output, save)


def table(scores: Path = SCORES) -> None:
    """Print Dice, HD95 and NSD of every patient, and their means.

    Args:
        scores: The table of scores.
    """
    with scores.open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = {"dice": "Dice", "hd95": "HD95", "nsd": "NSD at 1 mm"}
    heads = [f"{title}, {model}" for title in shown.values() for model in MODELS]
    print(f"| data | region | patient | {' | '.join(heads)} |\n|---|---|---|{'---|' * len(heads)}")
    cells = {(row["data"], row["region"], row["case"], row["model"]): row for row in rows}
    for data, region in dict.fromkeys((row["data"], row["region"]) for row in rows):
        tested = [{case for d, r, case, m in cells if (d, r, m) == (data, region, model)} for model in MODELS]
        cases = sorted(set.intersection(*tested))
        values = np.array(
            [[float(cells[data, region, case, model][score]) for score in shown for model in MODELS] for case in cases]
        )
        for case, line in zip([*cases, f"mean of {len(values)}"], [*values, values.mean(0)], strict=True):
            print(f"| {data} | {region} | {case} | {' | '.join(f'{value:.3f}' for value in line)} |")


if __name__ == "__main__":
    auto_cli([train, collect, table], as_positional=True)
