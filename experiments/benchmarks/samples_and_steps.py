"""Dice of a run, and GED where there are raters, by number of samples and steps, on the split that is reported.

The first S of 16 samples are those of S, so each number of steps is sampled once. Run
``python experiments/benchmarks/samples_and_steps.py runs/medsegdiff-isic2017/version_0``.
"""

import time
from pathlib import Path

import yaml
from jsonargparse import auto_cli

from diffmedseg import load_checkpoint
from diffmedseg.data import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.metrics.cases import score_cases, score_image, summarise
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.segmentation import Drawn


def load_run(run: Path) -> tuple[DiffusionSegmenter, SegmentationDataModule]:
    """Build a run's best model and its data."""
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]
    model, data = load_checkpoint(run / "checkpoints" / "best.ckpt"), build_data(config)
    data.setup("test")
    data.serve((), model.regions)  # nothing is trained
    return model, data


def main(run: Path, samples: list[int] = [1, 4, 16], steps: list[int] = [2, 4, 10]) -> None:  # noqa: B006
    """Print the table.

    Args:
        run: The run's folder.
        samples: Numbers of samples per image.
        steps: Numbers of network evaluations per sample.
    """
    model, data = load_run(run)
    print("| steps | samples | Dice | 95 % interval | IoU | diversity | GED (unbiased) | seconds for all of an image |")
    print("|---|---|---|---|---|---|---|---|")
    for num_steps in steps:
        scores: dict[int, list] = {n: [] for n in samples}
        seconds = images = 0.0
        for batch in data.test_dataloader():
            batch = data.on_after_batch_transfer(batch, 0)
            start = time.perf_counter()
            found = model.segment(batch["image"], max(samples), num_steps, keys=batch["case"])
            drawn = found.samples
            seconds, images = seconds + time.perf_counter() - start, images + len(drawn)
            for n in samples:
                fused = model.fuse_by(model.fusion, Drawn(drawn[:, :n], found.prior), model.image_size)
                for i, case in enumerate(batch["case"]):
                    image = score_image(
                        case, fused.probability[i], fused.samples[i], batch["reference"][i], model.threshold, 0.0
                    )
                    scores[n].append(image)
        for n in samples:
            summary = {s.score: s for s in summarise(score_cases(scores[n], model.regions))}
            dice, spread, ged = summary["dice"], summary.get("diversity"), summary.get("ged_unbiased")
            cells = [
                num_steps,
                n,
                f"{dice.mean:.4f}",
                f"{dice.low:.4f} to {dice.high:.4f}",
                f"{summary['iou'].mean:.4f}",
                f"{spread.mean:.3f}" if spread else "",
                f"{ged.mean:.3f} ({ged.low:.3f} to {ged.high:.3f})" if ged else "",
                f"{seconds / images:.2f}" if n == max(samples) else "",
            ]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
