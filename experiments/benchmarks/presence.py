"""Whether DiffSeg's answer "nothing" holds on images that it was not fitted on: ``diffmedseg calibrate --nothing``.

``python experiments/benchmarks/presence.py runs/diffseg/synthetic.labels/version_0 --images 256`` fits the least
contrast of a lesion on validation images, and prints in which share of healthy and diseased images something is found
there and on the test images, and what that does to Dice.
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
        shares: In which share of healthy images something may be found.
        images: Validation and test images each, of synthetic data; None for as many as the run had.
        samples: S.
    """
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]
    if images is not None:
        config["init_args"] |= {"num_val": images, "num_test": images}  # none of them is a training image
    model, data = load_checkpoint(run / "checkpoints" / "best.ckpt"), build_data(config)
    model.num_samples = samples
    data.setup("validate")
    data.setup("test")
    data.configure_targets((), model.regions)  # nothing is trained
    print("| may be found in | healthy, validation | healthy, test | diseased, test | Dice, test | AUC, validation |")
    print("|---|---|---|---|---|---|")
    for share in (1.0, *shares):
        fitted = {} if share == 1 else fit_presence(model, data, False, share)
        on = f"{fitted['false_positives']:.3f} of {fitted['healthy']} | " if fitted else " | "
        auc = f"{fitted['auc']:.3f}" if fitted else ""
        print(f"| {share:g} | {on}{_tested(model, data)} | {auc} |", flush=True)


@torch.inference_mode()
def _tested(model: DiffusionSegmenter, data: SegmentationDataModule) -> str:
    """Return where something is found among healthy and diseased test images, and Dice on the model's grid."""
    found: tuple[list[bool], list[bool]] = ([], [])
    images = []
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        result = model.segment(batch["image"], keys=batch["case"])
        for i, label in enumerate(batch["label"].tolist()):
            found[label].append(bool(result.mask[i].any()))
            maps = result.probability[i], result.samples[i], batch["reference"][i]
            images.append(score_image(batch["case"][i], *maps, model.threshold, 0.0))
    dice = next(one for one in summarise(score_cases(images, model.regions)) if one.score == "dice")
    shares = [f"{sum(one) / len(one):.3f} of {len(one)}" for one in found]
    return f"{' | '.join(shares)} | {dice.mean:.3f} ({dice.low:.3f} to {dice.high:.3f})"


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
