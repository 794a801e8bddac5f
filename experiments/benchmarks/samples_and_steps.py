"""Dice of a run, and GED if there are several raters, by number of samples and steps, on the reported split.

S samples are the first S of the largest number, so each number of steps is sampled once. Run
``python experiments/benchmarks/samples_and_steps.py runs/medsegdiff-isic2017/version_0``.
"""

import os
import time
from itertools import product
from pathlib import Path

import diffusers
import yaml
from jsonargparse import auto_cli

from diffmedseg import load_checkpoint, load_pretrained
from diffmedseg.data import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.diffusion import ReverseProcess
from diffmedseg.metrics.cases import score_cases, summarise
from diffmedseg.metrics.images import ImageScore, score_image
from diffmedseg.models import DiffusionSegmenter, MedSegDiffSegmenter
from diffmedseg.segmentation import SampleSet


def load_run(run: Path) -> tuple[DiffusionSegmenter, SegmentationDataModule]:
    """Build a model and its data.

    Args:
        run: Folder of a run, for its best checkpoint, or folder of a zoo entry, such as
            zoo/medsegdiff_isic2017.cpu64, with its data in $DIFFMEDSEG_DATA.
    """
    entry = run / "run.yaml"
    if entry.is_file():
        model, config = load_pretrained(run.name), yaml.safe_load(entry.read_text())["data"]
        if root := config["init_args"].get("root"):
            config["init_args"]["root"] = str(Path(os.environ["DIFFMEDSEG_DATA"], Path(root).name))
    else:
        model = load_checkpoint(run / "checkpoints" / "best.ckpt")
        config = yaml.safe_load((run / "config.yaml").read_text())["data"]
    data = build_data(config)
    data.setup("test")
    data.configure_targets((), model.regions)  # no training targets are needed
    return model, data


def main(
    run: Path,
    samples: list[int] = [1, 4, 16],  # noqa: B006
    steps: list[int] = [2, 4, 10],  # noqa: B006
    starts: list[float] = [1.0],  # noqa: B006
    spacings: list[float] = [1.0],  # noqa: B006
    schedulers: list[str] = ["DDIMScheduler", "UniPCMultistepScheduler"],  # noqa: B006
) -> None:
    """Print the table.

    Args:
        run: The run's folder.
        samples: Numbers of samples per image.
        steps: Numbers of network evaluations per sample.
        starts: First noise levels of chains, as shares of T. Below 1, chains start from the model's prior.
        spacings: Exponents of the spacing of steps.
        schedulers: Classes of diffusers.
    """
    model, data = load_run(run)
    assert isinstance(model, MedSegDiffSegmenter), f"{run} has no chains"
    heads = ("scheduler", "begin at", "spacing", "steps", "samples", "Dice", "diversity", "GED (unbiased)", "NLL", "s")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, start, spacing, num_steps in product(schedulers, starts, spacings, steps):
        model.reverse = ReverseProcess(getattr(diffusers, name)(), model.reverse.eta, start, spacing)
        scores, seconds = _scored(model, data, samples, num_steps)
        for n in samples:
            summary = {s.score: s for s in summarise(score_cases(scores[n], model.regions))}
            dice, spread, ged = summary["dice"], summary.get("diversity"), summary.get("ged_unbiased")
            cells = [
                name.removesuffix("Scheduler"),
                start,
                spacing,
                num_steps,
                n,
                f"{dice.mean:.4f} ({dice.low:.4f} to {dice.high:.4f})",
                f"{spread.mean:.3f}" if spread else "",
                f"{ged.mean:.3f} ({ged.low:.3f} to {ged.high:.3f})" if ged else "",
                f"{summary['nll'].mean:.4f}",
                f"{seconds:.2f}" if n == max(samples) else "",
            ]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def _scored(
    model: DiffusionSegmenter, data: SegmentationDataModule, samples: list[int], num_steps: int
) -> tuple[dict[int, list[ImageScore]], float]:
    """Return the scores of all images by number of samples, and the seconds per image for the most samples."""
    scores: dict[int, list[ImageScore]] = {n: [] for n in samples}
    seconds = images = 0.0
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        began = time.perf_counter()
        sample_set = model.sample(batch["image"], max(samples), num_steps, keys=batch["case"])
        seconds, images = seconds + time.perf_counter() - began, images + len(sample_set.samples)
        for n in samples:
            fused = model.fuse_by(
                model.fusion, SampleSet(sample_set.samples[:, :n], sample_set.prior), model.image_size
            )
            for i, case in enumerate(batch["case"]):
                maps = fused.probability[i], fused.samples[i], batch["reference"][i]
                scores[n].append(score_image(case, *maps, model.threshold, 0.0))
    return scores, seconds / images


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
