"""Dice of MedSegDiff here and in ``med-seg-diff-pytorch`` 0.3.3 (PyPI), with equal size, images and steps.

Make an environment with both packages: ``python -m venv peer; peer/bin/pip install . med-seg-diff-pytorch``.

- ``peer/bin/python experiments/benchmarks/peer_training.py train isic2017 --root /path/to/isic2017 --settings
  '[--data.reported=tenth]'`` trains and scores our V1 and Lite, and the network of the other package.
- ``... table`` prints means, and the paired differences from V1.

The other network has its own loss and sampler. All its widths are a quarter of its defaults, so that it has 0.8 million
parameters like our tiny V1. It is trained twice: with AdamW as in its ``driver.py``, and like our models, with warm-up,
decay, clipping and averaged weights. Images, augmentation, batches, precision and scores are the same for all. A mask
is where the mean of 8 samples is above 0.5. For equal time and the default widths, see ``budget.py``.
"""

import math
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from jsonargparse import auto_cli
from lightning import LightningModule, Trainer, seed_everything
from rows import paired
from torch import Tensor
from training import train_run

from diffmedseg.callbacks import WarmupEMA
from diffmedseg.data.batch import Batch
from diffmedseg.data.configured import build_data
from diffmedseg.metrics import bootstrap_interval
from diffmedseg.metrics.cases import score_cases
from diffmedseg.metrics.images import ImageScore, score_image
from diffmedseg.metrics.table import read_cases, write_cases
from diffmedseg.models.optimisation import warmup_cosine

RUNS = Path("runs/peer")
OURS = {"V1": "medsegdiff", "lite": "medsegdiff-lite"}
PACKAGE = "med-seg-diff-pytorch"
#: AdamW of the package's driver.py, and of our yaml files.
OPTIMISERS: dict[str, dict[str, Any]] = {
    PACKAGE: {"lr": 5e-4, "betas": (0.95, 0.999), "weight_decay": 1e-6},
    f"{PACKAGE}, our optimiser": {"lr": 1e-3, "weight_decay": 0.01},
}
TITLES = {"dice": "Dice", "diversity": "diversity", "nll": "NLL, nats"}
_SAMPLES = 8  # as our models


class Peer(LightningModule):
    """The network of the other package.

    Args:
        side: Side of the images in pixels.
        channels: Channels of the images.
        name: Name of OPTIMISERS.
    """

    def __init__(self, side: int, channels: int, name: str) -> None:
        from med_seg_diff_pytorch import MedSegDiff, Unet

        super().__init__()
        self.name, self.images = name, list[ImageScore]()
        unet = Unet(dim=16, image_size=side, dim_mults=(1, 1, 2, 3), attn_dim_head=8, input_img_channels=channels)
        self.diffusion = MedSegDiff(unet, timesteps=1000)

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the package's loss of images in [0, 1], as its data set gives them."""
        loss: Tensor = self.diffusion(batch["mask"], (batch["image"] + 1) / 2)
        return loss

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """Make AdamW, with the schedule of our models if it is our optimiser."""
        optimizer = torch.optim.AdamW(self.parameters(), **OPTIMISERS[self.name])
        factor = warmup_cosine(0, math.inf) if self.name == PACKAGE else warmup_cosine(100, self.trainer.max_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the images of a batch."""
        image, began = (batch["image"] + 1) / 2, time.perf_counter()
        with patch("med_seg_diff_pytorch.med_seg_diff_pytorch.tqdm", lambda steps, **_: steps):  # a bar for each batch
            rows = self.diffusion.sample(image.repeat_interleave(_SAMPLES, 0)).float().clamp(0, 1).cpu()
        seconds = (time.perf_counter() - began) / len(image)
        sets = rows.unflatten(0, (len(image), _SAMPLES))
        for case, samples, reference in zip(batch["case"], sets, batch["reference"], strict=True):
            self.images.append(score_image(case, samples.mean(0), samples, reference, 0.5, seconds))


def train(
    data: str,
    root: Path | None = None,
    runs: Path = RUNS,
    steps: int = 500,
    image_size: int = 64,
    seed: int = 0,
    sampling_steps: list[int] = [10, 50],  # noqa: B006
    settings: list[str] = [],  # noqa: B006
) -> None:
    """Train and score every model without scores.

    Args:
        data: Name of a data set with one region, such as isic2017.
        root: Folder of the data set; None for $DIFFMEDSEG_DATA/<data>.
        runs: Folder of the runs.
        steps: Training steps.
        image_size: Side of the images in pixels.
        seed: Seed of the weights, the order and the noise.
        sampling_steps: Steps of the package's DDIM. Our models have their own: 10 of V1, 4 of Lite.
        settings: Further settings of our runs. The package takes its data, precision and number of test batches.
    """
    runs = runs / data / f"{image_size}px" / str(steps)
    common = [
        *([] if root is None else [f"--data.root={root}"]), f"--data.image_size={image_size}", "--early_stopping=false",
        f"--trainer.max_steps={steps}", f"--data.steps_per_epoch={steps}", "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0", "--logger=csv", f"--seed_everything={seed}",
    ]  # fmt: skip
    for name, model in OURS.items():
        train_run(runs, f"{name}.{seed}", model, data, [*common, *settings])
    config = yaml.safe_load((runs / f"V1.{seed}" / "version_0" / "config.yaml").read_text())
    for name in OPTIMISERS:
        scores = {n: runs / f"{name}, {n} sampling steps.{seed}" / "version_0" / "cases.csv" for n in sampling_steps}
        if missing := {n: path for n, path in scores.items() if not path.is_file()}:
            _train_package(name, config, missing, seed)


def _train_package(name: str, config: dict[str, Any], scores: dict[int, Path], seed: int) -> None:
    """Train the package's network like the run of a config, and write its scores by number of sampling steps."""
    print(name, flush=True)
    seed_everything(seed)
    data, settings, ours = build_data(config["data"]), config["trainer"], name != PACKAGE
    data.setup("fit")
    data.configure_targets(("mask",), data.info.regions)
    peer = Peer(data.image_size[0], len(data.info.channels), name)
    same = {key: settings[key] for key in ("max_steps", "precision", "limit_test_batches")}
    trainer = Trainer(
        **same, gradient_clip_val=settings["gradient_clip_val"] if ours else None,
        callbacks=[WarmupEMA()] if ours else [], limit_val_batches=0, logger=False,
        use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(peer, data)
    for steps, path in scores.items():
        seed_everything(seed)
        peer.diffusion.sampling_timesteps, peer.diffusion.is_ddim_sampling, peer.images = steps, steps < 1000, []
        trainer.test(peer, data)
        patients = {image.case: data.patient(image.case) for image in peer.images}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cases(score_cases(peer.images, data.info.regions, patients=patients), path)


def table(runs: Path = RUNS) -> None:
    """Print the mean of every score, and the paired difference from V1 with its 95 % interval over cases.

    Args:
        runs: Folder of the runs.
    """
    for first in sorted(runs.glob("*/*px/*/V1.*/version_0/cases.csv")):
        folder, seed = first.parents[2], first.parents[1].name.rpartition(".")[2]
        print(f"\n{folder.relative_to(runs)} steps, seed {seed}\n\n| model | cases | {' | '.join(TITLES.values())} |")
        print("|---" * (2 + len(TITLES)) + "|")
        paths = sorted(folder.glob(f"*.{seed}/version_0/cases.csv"), key=lambda path: (path != first, path))
        base = read_cases(first)
        for path in paths:
            rows, cells = read_cases(path), []
            for score in TITLES:
                values, start = ({row.case: getattr(row, score) for row in cases} for cases in (rows, base))
                difference, cell = paired(values, start), f"{sum(values.values()) / len(values):.4f}"
                low, high = bootstrap_interval(difference)
                cells.append(cell + f", {difference.mean():+.4f} ({low:+.4f} to {high:+.4f})" * (path != first))
            print(f"| {' | '.join([path.parents[1].name.rpartition('.')[0], str(len(rows)), *cells])} |")


if __name__ == "__main__":
    auto_cli([train, table], as_positional=True)
