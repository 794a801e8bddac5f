"""A picture of what was segmented."""

from dataclasses import dataclass
from typing import Any

from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.callbacks.case_metrics import run_folder
from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.figures import outline, save_figure, show
from diffmedseg.segmentation import Segmentation

_NEAR = 8  # of so many slices of a volume at most one is shown


@dataclass(frozen=True)
class _Shown:
    """An image that may be shown: its slice number, pixels of foreground, and its row of the panel."""

    index: int
    area: float
    row: tuple[str, Tensor, Tensor, Segmentation]


class SamplePanels(SegmentationCallback):
    """Draws ``panel.png`` of the first test cases: image, reference, each sample, mean and disagreement.

    Of a volume it draws the slices with the most foreground, true or found: one of each case, or several where cases
    are few.

    Args:
        num_images: Rows of the picture.
        num_samples: Samples shown of each image.
    """

    stage = Stage.LOOK

    def __init__(self, num_images: int = 6, num_samples: int = 4) -> None:
        self.num_images, self.num_samples = num_images, num_samples
        self.cases: dict[str, list[_Shown]] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        self.cases = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what may be shown of the first cases."""
        s = outputs["segmentation"]
        for i, case in enumerate(batch["case"]):
            if case not in self.cases and len(self.cases) == self.num_images:
                continue
            one = Segmentation(s.samples[i].cpu(), s.probability[i].cpu(), s.uncertainty[i].cpu(), s.mask[i].cpu())
            raters = batch["raters"][i][batch["rater_valid"][i]] if "raters" in batch else batch["mask"][i][None]
            row = batch["id"][i], batch["image"][i].float().cpu(), raters.cpu(), one
            area = float(raters.float().sum() / len(raters) + one.mask.sum())
            self._offer(self.cases.setdefault(case, []), _Shown(int(batch["index"][i]), area, row))

    def _offer(self, kept: list[_Shown], new: _Shown) -> None:
        """Keep the largest slices of a case, of those near each other one."""
        near = [old for old in kept if old.index // _NEAR == new.index // _NEAR]
        if not near or near[0].area < new.area:
            others = [old for old in kept if old not in near]
            kept[:] = sorted([*others, new], key=lambda one: -one.area)[: self.num_images]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        path = run_folder(trainer) / "panel.png"
        if trainer.is_global_zero and self.cases:
            # The largest slice of each case first, then the second ones, as far as there is room.
            ranked = [(rank, case, one) for case, kept in self.cases.items() for rank, one in enumerate(kept)]
            chosen = sorted(ranked, key=lambda item: item[0])[: self.num_images]
            order = list(self.cases)
            chosen.sort(key=lambda item: (order.index(item[1]), item[2].index))
            save_figure(draw_panel([one.row for _, _, one in chosen], self.num_samples), path)


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
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        show(axes[0], image)
        axes[0].set_ylabel(name, fontsize=6)
        show(axes[1], image)
        for rater in raters:
            outline(axes[1], rater)
        for axis, sample in zip(axes[2:], segmentation.samples[:shown], strict=False):
            show(axis, image)
            outline(axis, sample)
        axes[-2].imshow(segmentation.samples.mean(0)[0].numpy(), vmin=0, vmax=1, cmap="gray")
        axes[-1].imshow(segmentation.uncertainty[0].numpy(), vmin=0, vmax=0.5, cmap="inferno")
    for axis, title in zip(grid[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure
