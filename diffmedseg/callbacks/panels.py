"""A picture of what was segmented."""

import os
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.callbacks.case_metrics import run_folder
from diffmedseg.models.segmentation import Segmentation

# One colour per region, readable for the colour-blind (Okabe & Ito 2008).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")


class SamplePanels(Callback):
    """Draws ``panel.png`` of the first test images: image, reference, each sample, mean and disagreement.

    Args:
        num_images: Rows of the picture.
        num_samples: Samples shown of each image.
    """

    def __init__(self, num_images: int = 6, num_samples: int = 4) -> None:
        self.num_images, self.num_samples = num_images, num_samples
        self.rows: list[tuple[str, Tensor, Tensor, Segmentation]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        self.rows = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        s = outputs["segmentation"]
        for i in range(min(len(batch["id"]), self.num_images - len(self.rows))):
            one = Segmentation(s.samples[i].cpu(), s.probability[i].cpu(), s.uncertainty[i].cpu(), s.mask[i].cpu())
            raters = batch["raters"][i][batch["rater_valid"][i]] if "raters" in batch else batch["mask"][i][None]
            self.rows.append((batch["id"][i], batch["image"][i].float().cpu(), raters.cpu(), one))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        path = run_folder(trainer) / "panel.png"
        if trainer.is_global_zero and self.rows:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_panel(self.rows, self.num_samples).savefig(path.with_suffix(".tmp"), format="png", dpi=110)
            os.replace(path.with_suffix(".tmp"), path)


def draw_panel(rows: list[tuple[str, Tensor, Tensor, Segmentation]], num_samples: int) -> Figure:
    """Draw one row per image.

    Args:
        rows: Name, image (C, H, W) in [-1, 1], raters (R, K, H, W) in {0, 1}, and the segmentation of that image
            without the batch dimension.
        num_samples: Samples shown.
    """
    shown = min(num_samples, max(len(row[3].samples) for row in rows))
    titles = [
        "image",
        "reference",
        *[f"sample {i + 1}" for i in range(shown)],
        "mean of samples",
        "disagreement" if shown > 1 else "uncertainty",
    ]
    figure = Figure(figsize=(1.6 * len(titles), 1.65 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, (name, image, raters, segmentation) in zip(grid, rows, strict=True):
        picture = ((image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)) + 1).div(2).permute(1, 2, 0).numpy()
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        axes[0].imshow(picture)
        axes[0].set_ylabel(name, fontsize=6)
        axes[1].imshow(picture)
        for rater in raters:
            _outline(axes[1], rater)
        for axis, sample in zip(axes[2:], segmentation.samples[:shown], strict=False):
            axis.imshow(picture)
            _outline(axis, sample)
        axes[-2].imshow(segmentation.samples.mean(0)[0], vmin=0, vmax=1, cmap="gray")
        axes[-1].imshow(segmentation.uncertainty[0], vmin=0, vmax=0.5, cmap="inferno")
    for axis, title in zip(grid[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def _outline(axis: Axes, mask: Tensor) -> None:
    """Draw the 0.5 contour of each region of a (K, H, W) mask."""
    for region, colour in zip(mask.float(), COLOURS * len(mask), strict=False):
        if (region > 0.5).any() and not torch.all(region > 0.5):
            axis.contour(region.numpy(), levels=[0.5], colors=[colour], linewidths=1)
