"""DiffSeg by kind of supervision, and a baseline by brightness alone (dark lesions, or tumours bright in FLAIR).

- ``python experiments/benchmarks/diffseg.py train isic2017 --root /path/to/isic2017`` trains the remaining variants of
  a data set.
- ``... choose runs/diffseg/isic2017.weak/version_0`` tries noise levels and decisions on the validation images of a
  run.
- ``... score runs/diffseg/isic2017.weak/version_0`` prints the scores of the run and the baseline on the reported
  images, and how often either finds something in a healthy image.
- ``... panel runs/diffseg/isic2017.weak/version_0 panel.png`` draws the steps from image to mask.

For CRFs and numbers of samples, see fusion_rules.py.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from samples_and_steps import load_run
from torch import Tensor
from training import train_run

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.batch import Batch
from diffmedseg.data.store import is_tissue
from diffmedseg.figures import REFERENCE, label_row, outline, save_figure, set_title, show
from diffmedseg.metrics.cases import score_cases, summarise
from diffmedseg.metrics.images import ImageScore, score_image
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.metrics.table import read_cases
from diffmedseg.models.diffseg.decision import Decision, FixedLevel, MultipleOfMean, Otsu
from diffmedseg.models.diffseg.difference import Difference, NoisePredictionDifference, PartialDenoisingDifference
from diffmedseg.models.diffseg.segmenter import DiffSegSegmenter
from diffmedseg.models.drawing import sample_generators
from diffmedseg.postprocessing.otsu import otsu_level

_RECIPE = "--data.label_recipe=diffmedseg.data.labels."
_PAIRS = "--model.supervision=pairs"
_CROPS = ["--data.batch_size=64"]  # crops of a sixteenth of an image
VARIANTS: dict[str, dict[str, list[str]]] = {
    "synthetic": {"labels": [], "pairs": [_RECIPE + "OwnPairs", _PAIRS]},
    "isic2017": {
        "weak": _CROPS,
        "mask-assisted crops": [_RECIPE + "MaskExcludedCrops", *_CROPS],
        "mask-assisted pairs": [_RECIPE + "InpaintedPairs", _PAIRS],
    },
    "lgg": {f"fold {fold}": ["--data.folds=5", f"--data.fold={fold}"] for fold in range(5)},
    "brats2015": {f"fold {fold}": ["--data.folds=4", f"--data.fold={fold}"] for fold in range(4)},
}
DIFFERENCES: dict[str, Difference] = {
    **{
        f"levels {low} to {low + 200}": NoisePredictionDifference(low, low + 200)
        for low in (0, 100, 200, 300, 400, 600)
    },
    "partial denoising from 400": PartialDenoisingDifference(400),
    "the same, guidance 3": PartialDenoisingDifference(400, guidance=3.0),
}
DECISIONS: dict[str, Decision] = {"Otsu": Otsu(), "level 0.5": FixedLevel(), "1.5 means": MultipleOfMean()}


def train(
    data: str,
    root: Path | None = None,
    runs: Path = Path("runs/diffseg"),
    steps: int = 3000,
    samples: int = 8,
    only: list[str] = [],  # noqa: B006
) -> None:
    """Train the remaining variants.

    Args:
        data: A key of VARIANTS.
        root: Folder of the data set.
        runs: Folder of the runs.
        steps: Training steps of each run.
        samples: S of the test.
        only: Variants; all if empty.
    """
    for variant, settings in VARIANTS[data].items():
        if only and variant not in only:
            continue
        root_setting = [] if root is None else ["--data.root", str(root)]
        reported = ["--data.reported=validation"] if data.startswith("isic") else []
        general = [f"--trainer.max_steps={steps}", f"--model.num_samples={samples}"]
        name = f"{data}.{variant.replace(' ', '_')}"
        train_run(runs, name, "diffseg", data, [*root_setting, *reported, *general, *settings])


def choose(run: Path, samples: int = 4, images: int = 40) -> None:
    """Print the Dice of levels and decisions on a run's validation images, on the model's grid.

    Args:
        run: The run's folder.
        samples: Maps per image; their masks are averaged.
        images: Maximum number of images, from the first on, because windows of small crops take long.
    """
    model, data = _load(run)
    data.setup("validate")
    batches: list[Batch] = []
    for batch in data.val_dataloader():
        if sum(len(other["id"]) for other in batches) < images:
            batches.append(data.on_after_batch_transfer(batch, 0))
    counted = sum(len(batch["id"]) for batch in batches)
    print(f"{run}: {counted} validation images, {samples} samples of {model.num_steps} comparisons\n")
    print(f"| difference | {' | '.join(DECISIONS)} | contrast tells healthy from diseased |")
    print("|---|" + "---|" * (len(DECISIONS) + 1))
    trivial = [score for batch in batches for score in _scores(batch, *_baseline(model, batch), batch["mask"][:, None])]
    print(f"| no learning | {_mean(trivial, model.regions, 'dice'):.3f} | | | |", flush=True)
    for name, difference in DIFFERENCES.items():
        model.difference = difference
        scores: dict[str, list[ImageScore]] = {decision: [] for decision in DECISIONS}
        contrast, label = [], []
        for batch in batches:
            maps = _maps(model, batch, samples)
            contrast.append(model.contrast(maps, batch["image"]).median(1).values)
            label.append(batch["mask"].flatten(1).any(1))
            for decision, rule in DECISIONS.items():
                model.decision = rule
                soft = model.soft_masks(maps, batch["image"])[:, :, None]
                scores[decision] += _scores(batch, soft.mean(1), soft, batch["mask"][:, None])
        dice = [_mean(images, model.regions, "dice") for images in scores.values()]
        auc = _auc(torch.cat(contrast), torch.cat(label))
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in dice)} | {auc} |", flush=True)


def score(run: Path, test: Path | None = None) -> None:
    """Print the scores of a run's test, and of the baseline on the same images.

    Args:
        run: The run's folder.
        test: Folder of a later test of the run; None for the test in the run's folder.
    """
    model, data = _load(run)
    images: list[ImageScore] = []
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        images += _scores(batch, *_baseline(model, batch), batch["reference"])
    baseline, tested = score_cases(images, model.regions), read_cases((test or run) / "cases.csv")
    unrefined = [replace(row, dice=row.dice_unrefined, iou=math.nan) for row in tested]
    print(f"{test or run}: {len(tested)} cases, {tested[0].num_samples} samples of {model.num_steps} comparisons\n")
    print("| method | Dice | 95 % interval | IoU | something found where there is nothing | seconds per case |")
    print("|---|---|---|---|---|---|")
    _row("no learning", baseline)
    _row("DiffSeg, mean", unrefined)
    _row("DiffSeg, CRFs of random subsets", tested)


def _row(name: str, rows: list[CaseScore]) -> None:
    summaries = {summary.score: summary for summary in summarise(rows)}
    healthy = [row for row in rows if math.isnan(row.sensitivity)]
    false = sum(not row.both_empty for row in healthy)
    dice, iou, seconds = (summaries.get(score) for score in ("dice", "iou", "seconds"))
    cells = [
        f"{dice.mean:.4f}" if dice else "",
        f"{dice.low:.4f} to {dice.high:.4f}" if dice else "",
        f"{iou.mean:.4f}" if iou else "",
        f"{false} of {len(healthy)}" if healthy and iou else "",
        f"{seconds.mean:.2f}" if seconds and seconds.mean else "",
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


@torch.inference_mode()
def panel(run: Path, output: Path, images: int = 4, levels: list[int] = [100, 300, 500]) -> None:  # noqa: B006
    """Draw reconstructions, differences at single noise levels, samples and the fused map.

    Args:
        run: The run's folder.
        output: The PNG.
        images: Number of images, spread over the reported images.
        levels: Noise levels of the single differences. The reconstructions are at the middle level.
    """
    model, data = _load(run)
    store = data.stores["test"]
    chosen = {store.ids[i] for i in torch.linspace(0, len(store) - 1, images).round().long().tolist()}
    rows = []
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        rows += [_panel_row(model, batch, i, levels) for i, name in enumerate(batch["id"]) if name in chosen]
    titles = ["image, reference", "healthy", "diseased", *(f"difference, t = {t}" for t in levels),
              "sample 1", "sample 2", "fused"]  # fmt: skip
    figure = Figure(figsize=(1.6 * len(titles), 1.65 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, (name, reference, pictures, maps) in zip(grid, rows, strict=True):
        for axis, picture in zip(axes, pictures, strict=False):
            show(axis, picture)
        outline(axes[0], reference, REFERENCE)
        label_row(axes[0], name, 1.5, 6)
        for axis, soft in zip(axes[len(pictures) :], maps, strict=True):
            axis.imshow(soft.numpy(), cmap="gray")
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(grid[0], titles, strict=True):
        set_title(axis, title, 1.5)
    save_figure(figure, output)


def _panel_row(
    model: DiffSegSegmenter, batch: Batch, i: int, levels: list[int]
) -> tuple[str, Tensor, list[Tensor], list[Tensor]]:
    """Return name, reference, pictures (image, healthy, diseased) and maps (differences, samples, fused)."""
    image, case = batch["image"][i : i + 1], batch["case"][i : i + 1]
    predictions: list[Tensor] = []
    predict = partial(model._predict, model.tiling.parts())

    def noted(x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        predictions.append(predict(x_t, t, label))
        return predictions[-1]

    maps, pictures = [], [image[0]]
    for level in levels:
        [[generator]] = sample_generators(model.seed, case, range(1))
        difference = NoisePredictionDifference(level, level)(noted, model.process, image, [generator], 1)
        maps.append(model._reduce(difference)[0])
        if level == levels[len(levels) // 2]:
            pictures += list(predictions[-1])  # healthy, diseased
    result = model.segment(image, keys=case)
    maps += [result.samples[0, 0, 0], result.samples[0, 1, 0], result.probability[0, 0]]
    return batch["id"][i], batch["mask"][i], pictures, maps


def _load(run: Path) -> tuple[DiffSegSegmenter, SegmentationDataModule]:
    model, data = load_run(run)
    assert isinstance(model, DiffSegSegmenter), f"{run} is no run of DiffSeg"
    return model, data


@torch.inference_mode()
def _maps(model: DiffSegSegmenter, batch: Batch, samples: int) -> Tensor:
    generators = sample_generators(model.seed, batch["case"], range(samples))
    return model.difference_maps(batch["image"], generators, model.num_steps)


def _baseline(model: DiffSegSegmenter, batch: Batch) -> tuple[Tensor, Tensor]:
    """Threshold dark or bright pixels, by polarity, at Otsu's level of the pixels outside the background."""
    value, masks = model._reduce(-batch["image"]), []  # a difference with a healthy image of zeros
    for image, evidence in zip(batch["image"], value, strict=True):
        inside = is_tissue(image)
        unit = (evidence - evidence.min()) / (evidence.max() - evidence.min()).clamp(min=1e-6)
        level = otsu_level(unit[inside][None])[0] if inside.any() else 1.0
        masks.append(((unit > level) & inside).float())
    probability = torch.stack(masks)[:, None]
    return probability, probability[:, None]


def _scores(batch: Batch, probability: Tensor, samples: Tensor, references: Iterable[Tensor]) -> list[ImageScore]:
    rows = zip(batch["case"], probability, samples, references, strict=True)
    return [score_image(case, p, s, reference.to(torch.uint8), 0.5, 0.0) for case, p, s, reference in rows]


def _mean(images: list[ImageScore], regions: tuple[str, ...], name: str) -> float:
    return next(summary.mean for summary in summarise(score_cases(images, regions)) if summary.score == name)


def _auc(score: Tensor, label: Tensor) -> str:
    if label.all() or not label.any():
        return ""
    return f"{float((score[label][:, None] > score[~label]).double().mean()):.3f}"


if __name__ == "__main__":
    auto_cli([train, choose, score, panel], as_positional=True)
