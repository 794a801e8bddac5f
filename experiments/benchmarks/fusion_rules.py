"""What rule of fusion, and how many samples, on the split that a run reports; and how GED depends on that number.

Each image's samples are drawn once: the first S of them are those of S. Run
``python experiments/benchmarks/fusion_rules.py runs/medsegdiff-synthetic/version_0 --plot ged.png``.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from jsonargparse import auto_cli
from matplotlib.figure import Figure
from samples_and_steps import load_run
from torch import Tensor

from diffmedseg.crf import CRFSettings, DenseCRF, RandomSubsetCRF
from diffmedseg.figures import save_figure
from diffmedseg.fusion import Fusion, MajorityFusion, MeanFusion, STAPLEFusion
from diffmedseg.metrics.cases import Summary, score_cases, summarise
from diffmedseg.metrics.images import ImageScore, score_image
from diffmedseg.refinement import Refinement

_CRF = CRFSettings(reference_size=512)
RULES: dict[str, tuple[Fusion, Refinement | None]] = {
    "mean": (MeanFusion(), None),
    "majority": (MajorityFusion(), None),
    "STAPLE": (STAPLEFusion(), None),
    "mean, CRF": (MeanFusion(), DenseCRF(_CRF)),
    "CRFs of random subsets": (MeanFusion(), RandomSubsetCRF(settings=_CRF)),
}


def main(run: Path, samples: list[int] = [1, 2, 4, 8, 16, 32], plot: Path | None = None) -> None:  # noqa: B006
    """Print the table.

    Args:
        run: The run's folder.
        samples: Numbers of samples.
        plot: PNG of GED over the number of samples.
    """
    model, data = load_run(run)
    scores: dict[tuple[str, int], list[ImageScore]] = defaultdict(list)
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        drawn = model.segment(batch["image"], max(samples), keys=batch["case"]).samples
        for s in samples:
            for rule, (fusion, refinement) in RULES.items():
                found = model.fuse_by(fusion, drawn[:, :s], model.image_size)
                probability = found.probability
                if refinement is not None:
                    probability = refinement(batch["image"], found.samples, probability, model.nested, batch["case"])
                for i, case in enumerate(batch["case"]):
                    maps: tuple[Tensor, ...] = probability[i], found.samples[i], batch["reference"][i]
                    # Calibration counts are large, and not looked at here.
                    image = score_image(case, *maps, model.threshold, 0.0)
                    scores[rule, s].append(replace(image, reliability=image.reliability[..., :1]))
    summaries = {
        key: {one.score: one for one in summarise(score_cases(images, model.regions)) if one.region == model.regions[0]}
        for key, images in scores.items()
    }
    print(f"{run}: {summaries[next(iter(RULES)), samples[0]]['dice'].cases} cases, {model.num_steps} steps\n")
    print(
        f"| rule | {' | '.join(f'S = {s}' for s in samples)} | 95 % interval of the last |"
        f"\n|---|{'---|' * (len(samples) + 1)}"
    )
    for rule in RULES:
        dice = [summaries[rule, s]["dice"] for s in samples]
        interval = f"{dice[-1].low:.4f} to {dice[-1].high:.4f}"
        print(f"| {rule} | {' | '.join(f'{one.mean:.4f}' for one in dice)} | {interval} |")
    if "ged_unbiased" in summaries["mean", max(samples)]:
        print(f"\n| GED | {' | '.join(f'S = {s}' for s in samples)} |\n|---|{'---|' * len(samples)}")
        for name in ("ged_biased", "ged_unbiased"):
            values = [summaries["mean", s].get(name) for s in samples]
            print(f"| {name.removeprefix('ged_')} | {' | '.join(f'{one.mean:.4f}' if one else '' for one in values)} |")
        if plot:
            save_figure(draw_ged({s: summaries["mean", s] for s in samples}), plot)


def draw_ged(summaries: dict[int, dict[str, Summary]]) -> Figure:
    """Draw both forms over the number of samples, with their intervals."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, colour in (("ged_biased", "#E69F00"), ("ged_unbiased", "#56B4E9")):
        points = [(s, found[name]) for s, found in summaries.items() if name in found]
        axis.plot([s for s, _ in points], [one.mean for _, one in points], marker="o", color=colour, label=name[4:])
        axis.fill_between(
            [s for s, _ in points],
            [one.low for _, one in points],
            [one.high for _, one in points],
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
