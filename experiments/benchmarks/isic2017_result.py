"""The reported result on ISIC 2017: MedSegDiff-V1, the supervised baseline, and the mean of their probabilities.

- ``python experiments/benchmarks/isic2017_result.py train /path/to/isic2017`` trains three seeds of each model, and
  resumes stopped runs.
- ``... score /path/to/isic2017`` scores them on the 150 official validation images at native resolution, and writes
  isic2017_result.csv beside this file.
- ``... table`` prints the tables of this file.
"""

from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from rows import read_rows, write_rows
from torchmetrics.functional import spearman_corrcoef
from training import EVEN_DDIM, train_run

from diffmedseg import load_checkpoint
from diffmedseg.data import ISIC2017DataModule
from diffmedseg.metrics import bootstrap_interval
from diffmedseg.metrics.cases import score_cases, score_image
from diffmedseg.models import DiffusionSegmenter

SCORES = Path(__file__).with_suffix(".csv")
BOTH, SEEDS = "mean of both", [0, 1, 2]
#: Settings by model.
MODELS: dict[str, list[str]] = {"medsegdiff": EVEN_DDIM, "supervised": []}
COLUMNS = ("dice", "iou", "uncertainty", "diversity")


def train(root: Path, runs: Path = Path("runs/isic2017_result"), steps: int = 16000, seeds: list[int] = SEEDS) -> None:
    """Train the remaining runs.

    Args:
        root: Folder that contains the official folders of ISIC 2017.
        runs: Folder of the runs.
        steps: Training steps of each run.
        seeds: Seeds.
    """
    for seed in seeds:
        for model, model_settings in MODELS.items():
            settings = [
                "--seed_everything", str(seed), "--data.root", str(root), "--data.reported=validation",
                f"--trainer.max_steps={steps}", *model_settings,
            ]  # fmt: skip
            train_run(runs, f"{model}.{seed}", model, "isic2017", settings)


def score(
    root: Path, runs: Path = Path("runs/isic2017_result"), output: Path = SCORES, seeds: list[int] = SEEDS
) -> None:
    """Score the best checkpoint of every run, and the mean of both models of a seed. Seeds in the table are kept.

    Args:
        root: Folder that contains the official folders of ISIC 2017.
        runs: Folder of the runs.
        output: The table of scores.
        seeds: Seeds.
    """
    rows: list[dict[str, object]] = [*read_rows(output)] if output.is_file() else []
    done = {row["seed"] for row in rows}
    for seed in [seed for seed in seeds if str(seed) not in done]:
        models = {
            name: load_checkpoint(runs / f"{name}.{seed}" / "version_0" / "checkpoints" / "best.ckpt")
            for name in MODELS
        }
        data = ISIC2017DataModule(root, reported="validation", image_size=models["medsegdiff"].image_size)
        data.setup("test")
        scores = _score(models, data)
        for name, images in scores.items():
            for case in score_cases(images, ("lesion",)):
                values = {column: f"{getattr(case, column):.4f}" for column in COLUMNS}
                rows.append({"model": name, "seed": seed, "case": case.case, **values})
        print(f"seed {seed} scored", flush=True)

    write_rows(rows, output)


def _score(models: dict[str, DiffusionSegmenter], data: ISIC2017DataModule) -> dict[str, list]:
    scores: dict[str, list] = {name: [] for name in (*models, BOTH)}
    for batch in data.test_dataloader():
        image = data.on_after_batch_transfer(batch, 0)["image"]
        with torch.autocast("cpu", torch.bfloat16):  # as in training
            segmentations = {name: model.segment(image, keys=batch["id"]) for name, model in models.items()}
        maps = {name: (s.probability, s.samples) for name, s in segmentations.items()}
        mean = torch.stack([probability for probability, _ in maps.values()]).mean(0)
        maps[BOTH] = (mean, mean[:, None])
        for name, (probability, samples) in maps.items():
            for i, case in enumerate(batch["case"]):
                scores[name].append(score_image(case, probability[i], samples[i], batch["reference"][i], 0.5, 0.0))
    return scores


def table(scores: Path = SCORES) -> None:
    """Print means over seeds with intervals over images, paired differences, and the relation of uncertainty and Dice.

    Args:
        scores: The table of scores.
    """
    rows = read_rows(scores)
    seeds, cases = (sorted({row[name] for row in rows}) for name in ("seed", "case"))
    cells = {(row["model"], row["seed"], row["case"]): row for row in rows}
    values = {
        (name, column): np.array([[float(cells[name, s, c][column]) for c in cases] for s in seeds])
        for name in (*MODELS, BOTH)
        for column in COLUMNS
    }
    print("| model | Dice | 95 % interval | by seed | IoU |\n|---|---|---|---|---|")
    for name in (*MODELS, BOTH):
        dice, iou = values[name, "dice"], values[name, "iou"]
        by_seed = ", ".join(f"{mean:.3f}" for mean in dice.mean(1))
        print(f"| {name} | {dice.mean():.4f} | {_interval(dice)} | {by_seed} | {iou.mean():.4f} |")
    print("\n| difference in Dice | mean | 95 % interval | by seed |\n|---|---|---|---|")
    diffusion, control = MODELS
    for a, b in ((diffusion, control), (BOTH, diffusion), (BOTH, control)):
        difference = values[a, "dice"] - values[b, "dice"]
        by_seed = ", ".join(f"{mean:+.3f}" for mean in difference.mean(1))
        print(f"| {a} less {b} | {difference.mean():+.4f} | {_interval(difference)} | {by_seed} |")
    print("\n| model | doubt | rank correlation with Dice, by seed | Dice of the surer half | of the other |")
    print("|---|---|---|---|---|")
    for name, column in [(name, "uncertainty") for name in (*MODELS, BOTH)] + [(diffusion, "diversity")]:
        doubt, dice = values[name, column], values[name, "dice"]
        pairs = zip(torch.from_numpy(doubt), torch.from_numpy(dice), strict=True)
        ranks = ", ".join(f"{float(spearman_corrcoef(d, q)):+.2f}" for d, q in pairs)
        sure = doubt <= np.median(doubt, axis=1, keepdims=True)
        print(f"| {name} | {column} | {ranks} | {dice[sure].mean():.3f} | {dice[~sure].mean():.3f} |")


def _interval(by_seed: np.ndarray) -> str:
    low, high = bootstrap_interval(by_seed.mean(0))
    return f"{low:.4f} to {high:.4f}"


if __name__ == "__main__":
    auto_cli([train, score, table], as_positional=True)
