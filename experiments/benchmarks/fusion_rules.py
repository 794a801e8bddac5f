"""Dice by fusion rule and number of samples, and GED by number of samples, on the split that a run reports.

Each image's samples are drawn once; S samples are the first S of them. With ``--control``, the mask of a supervised
baseline is scored, too, alone and as another vote. Without it, this mask is the prior, if the model has one. Run
``python experiments/benchmarks/fusion_rules.py runs/medsegdiff-lite-synthetic/version_0 --control
runs/supervised-synthetic/version_0 --plot ged.png``.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from samples_and_steps import load_run
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.figures import save_figure
from diffmedseg.metrics import bootstrap_interval
from diffmedseg.metrics.cases import Summary, score_cases, summarise
from diffmedseg.metrics.images import ImageScore, score_image
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.postprocessing.crf import CRFSettings, DenseCRF, RandomSubsetCRF
from diffmedseg.postprocessing.fusion import Fusion, MajorityFusion, MeanFusion, STAPLEFusion
from diffmedseg.postprocessing.refinement import LargestComponent, Refinement
from diffmedseg.segmentation import SampleSet

_CRF = CRFSettings(reference_size=512)
RULES: dict[str, tuple[Fusion, Refinement | None]] = {
    "mean": (MeanFusion(), None),
    "majority": (MajorityFusion(), None),
    "STAPLE": (STAPLEFusion(), None),
    "mean, largest component": (MeanFusion(), LargestComponent()),
    "mean, CRF": (MeanFusion(), DenseCRF(_CRF)),
    "CRFs of random subsets": (MeanFusion(), RandomSubsetCRF(settings=_CRF)),
    "the same, largest component": (MeanFusion(), LargestComponent(RandomSubsetCRF(settings=_CRF))),
}


def main(
    run: Path,
    samples: list[int] = [1, 2, 4, 8, 16, 32],  # noqa: B006
    control: Path | None = None,
    plot: Path | None = None,
    rules: list[str] = [],  # noqa: B006
) -> None:
    """Print the tables.

    Args:
        run: The run's folder. ``{fold}`` instead of a number stands for the folders of all folds, with pooled cases.
        samples: Numbers of samples.
        control: Folder of a supervised baseline's run on the same data, in the same form. None for the model's prior,
            if it has one.
        plot: PNG of GED over the number of samples.
        rules: Keys of RULES, including the mean; all if empty.
    """
    chosen = {name: rule for name, rule in RULES.items() if not rules or name in rules}
    scores: dict[tuple[str, int], list[ImageScore]] = defaultdict(list)
    for number, folder in enumerate(_folds(run)):
        model, data = load_run(folder)
        other = None if control is None else load_run(_folds(control)[number])[0]
        for batch in data.test_dataloader():
            batch = data.on_after_batch_transfer(batch, 0)
            for (rule, s), (probability, masks) in _fused(model, other, batch, samples, chosen):
                for i, case in enumerate(batch["case"]):
                    image = score_image(case, probability[i], masks[i], batch["reference"][i], model.threshold, 0.0)
                    # Calibration counts are large, and not needed here.
                    scores[rule, s].append(replace(image, reliability=image.reliability[..., :1]))
    rows = {
        key: [row for row in score_cases(images, model.regions) if row.region == model.regions[0]]
        for key, images in scores.items()
    }
    summaries = {key: {score.score: score for score in summarise(cases)} for key, cases in rows.items()}
    print(f"{run}: {summaries[next(iter(chosen)), samples[0]]['dice'].cases} cases, {model.num_steps} steps\n")
    print(
        f"| rule | {' | '.join(f'S = {s}' for s in samples)} | 95 % interval of the last | less the mean, paired |"
        f"\n|---|{'---|' * (len(samples) + 2)}"
    )
    tried = list(dict.fromkeys(rule for rule, _ in summaries))
    for rule in tried:
        dice = [summaries[rule, s]["dice"] for s in samples]
        interval = f"{dice[-1].low:.4f} to {dice[-1].high:.4f}"
        difference = _difference(rows[rule, samples[-1]], rows["mean", samples[-1]])
        print(f"| {rule} | {' | '.join(f'{score.mean:.4f}' for score in dice)} | {interval} | {difference} |")
    print(f"\n| rule, S = {max(samples)} | Brier score | NLL |\n|---|---|---|")
    for rule in tried:
        brier, nll = (summaries[rule, max(samples)][name] for name in ("brier", "nll"))
        print(f"| {rule} | {brier.mean:.4f} | {nll.mean:.4f} |")
    if "ged_unbiased" in summaries["mean", max(samples)]:
        print(f"\n| GED | {' | '.join(f'S = {s}' for s in samples)} |\n|---|{'---|' * len(samples)}")
        for name in ("ged_biased", "ged_unbiased"):
            values = [summaries["mean", s].get(name) for s in samples]
            print(f"| {name.removeprefix('ged_')} | {' | '.join(f'{ged.mean:.4f}' if ged else '' for ged in values)} |")
        if plot:
            save_figure(draw_ged({s: summaries["mean", s] for s in samples}), plot)


def _difference(rows: list[CaseScore], mean_rows: list[CaseScore]) -> str:
    """Return the mean difference in Dice over the same cases, with its interval."""
    differences = [row.dice - other.dice for row, other in zip(rows, mean_rows, strict=True)]
    low, high = bootstrap_interval(differences)
    return f"{sum(differences) / len(differences):+.4f} ({low:+.4f} to {high:+.4f})"


def _folds(run: Path) -> list[Path]:
    if "{fold}" not in str(run):
        return [run]
    candidates = [Path(str(run).format(fold=fold)) for fold in range(100)]
    return [folder for folder in candidates if folder.is_dir()]


def _fused(
    model: DiffusionSegmenter,
    other: DiffusionSegmenter | None,
    batch: Batch,
    samples: list[int],
    rules: dict[str, tuple[Fusion, Refinement | None]],
) -> Iterator[tuple[tuple[str, int], tuple[Tensor, Tensor]]]:
    """Yield, by rule and number of samples, the probability and the samples."""
    given = model.sample(batch["image"], max(samples), keys=batch["case"])
    prior, name = given.prior, "prior"
    if other is not None:
        prior, name = other.sample(batch["image"], 1, keys=batch["case"]).samples[:, 0], "control"
    for s in samples:
        drawn_masks = given.samples[:, :s]
        for rule, (fusion, refinement) in rules.items():
            yield (rule, s), _fuse(model, batch, fusion, refinement, drawn_masks)
        if prior is not None:
            voters = {
                f"mean, the {name} a voter more": torch.cat([drawn_masks, prior[:, None]], 1),
                f"mean, the {name} as many voters": torch.cat([drawn_masks, prior[:, None].expand_as(drawn_masks)], 1),
                f"the {name} alone": prior[:, None],
            }
            for rule, masks in voters.items():
                yield (rule, s), _fuse(model, batch, MeanFusion(), None, masks)


def _fuse(
    model: DiffusionSegmenter, batch: Batch, fusion: Fusion, refinement: Refinement | None, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the fused probability, refined if there is a refinement, and the samples."""
    fused = model.fuse_by(fusion, SampleSet(samples), model.image_size)
    if refinement is None:
        return fused.probability, fused.samples
    image, keys = batch["image"], batch["case"]
    return refinement(image, fused.samples, fused.probability, model.nested, keys), fused.samples


def draw_ged(summaries: dict[int, dict[str, Summary]]) -> Figure:
    """Draw both forms of GED over the number of samples, with their intervals."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, colour in (("ged_biased", "#E69F00"), ("ged_unbiased", "#56B4E9")):
        points = [(s, summary[name]) for s, summary in summaries.items() if name in summary]
        axis.plot([s for s, _ in points], [score.mean for _, score in points], marker="o", color=colour, label=name[4:])
        axis.fill_between(
            [s for s, _ in points],
            [score.low for _, score in points],
            [score.high for _, score in points],
            color=colour,
            alpha=0.2,
        )
    axis.set(xscale="log", xlabel="samples per image", ylabel="GED")
    axis.set_xticks(list(summaries), [str(s) for s in summaries])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
