"""Test of ``diffmedseg calibrate --nothing`` on new images: does DiffSeg still find nothing in healthy images?

``python experiments/benchmarks/presence.py runs/diffseg/synthetic.labels/version_0 --images 256`` fits the minimum
contrast of a lesion on validation images. It prints the shares of healthy and diseased images with a non-empty mask, on
validation and test images, and the effect on Dice.
"""

from pathlib import Path

import torch
import yaml
from jsonargparse import auto_cli

from diffmedseg import load_checkpoint
from diffmedseg.data import SegmentationDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.evaluation.calibrating import fit_presence
from diffmedseg.metrics.cases import score_cases, summarise
from diffmedseg.metrics.images import score_image
from diffmedseg.models import DiffusionSegmenter


def main(
    run: Path,
    shares: list[float] = [0.1, 0.2],  # noqa: B006
    images: int | None = None,
    samples: int = 4,
) -> None:
    """Print the table.

    Args:
        run: The run's folder.
        shares: Accepted fractions of healthy images with a non-empty mask.
        images: Number of validation images and of test images of synthetic data; None for the run's numbers.
        samples: S.
    """
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]
    if images is not None:
        config["init_args"] |= {"num_val": images, "num_test": images}  # new images, no training images
    model, data = load_checkpoint(run / "checkpoints" / "best.ckpt"), build_data(config)
    model.num_samples = samples
    data.setup("validate")
    data.setup("test")
    data.configure_targets((), model.regions)  # no training targets are needed
    print("| may be found in | healthy, validation | healthy, test | diseased, test | Dice, test | AUC, validation |")
    print("|---|---|---|---|---|---|")
    for share in (1.0, *shares):
        fitted = {} if share == 1 else fit_presence(model, data, False, share)
        on = f"{fitted['false_positives']:.3f} of {fitted['healthy']} | " if fitted else " | "
        auc = f"{fitted['auc']:.3f}" if fitted else ""
        print(f"| {share:g} | {on}{_tested(model, data)} | {auc} |", flush=True)


@torch.inference_mode()
def _tested(model: DiffusionSegmenter, data: SegmentationDataModule) -> str:
    """Return the shares of healthy and diseased test images with a non-empty mask, and Dice on the model's grid."""
    nonempty: tuple[list[bool], list[bool]] = ([], [])
    images = []
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        result = model.segment(batch["image"], keys=batch["case"])
        for i, label in enumerate(batch["label"].tolist()):
            nonempty[label].append(bool(result.mask[i].any()))
            maps = result.probability[i], result.samples[i], batch["reference"][i]
            images.append(score_image(batch["case"][i], *maps, model.threshold, 0.0))
    dice = next(score for score in summarise(score_cases(images, model.regions)) if score.score == "dice")
    shares = [f"{sum(masks) / len(masks):.3f} of {len(masks)}" for masks in nonempty]
    return f"{' | '.join(shares)} | {dice.mean:.3f} ({dice.low:.3f} to {dice.high:.3f})"


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
