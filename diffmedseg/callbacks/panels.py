"""Draw a picture of the segmentations of a test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from diffmedseg.callbacks.case_metrics import run_folder
from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.figures import (
    DISAGREEMENT,
    MASK,
    PROBABILITY,
    REFERENCE,
    SAMPLE,
    draw_legend,
    label_row,
    legend_of,
    of_first,
    outline,
    save_figure,
    scale_below,
    set_title,
    show,
    show_map,
)
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.segmentation import Segmentation

_NEAR = 8  # slices: at most one slice of so many is shown


Row = TypeVar("Row")


@dataclass(frozen=True)
class _Shown(Generic[Row]):
    """An image that may be shown: its slice number, pixels of foreground, and its row."""

    index: int
    area: float
    row: Row


class LargestSlices(Generic[Row]):
    """Chooses images of the first cases while a test runs.

    Of volumes, the slices with the most foreground are chosen: one slice of each case, or several if there are few
    cases.

    Args:
        num_images: Number of images.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self._cases: dict[str, list[_Shown[Row]]] = {}

    def wants(self, case: str) -> bool:
        """Return whether images of a case may be chosen."""
        return case in self._cases or len(self._cases) < self.num_images

    def offer(self, case: str, index: int, area: float, row: Row) -> None:
        """Keep the largest slices of a case; of slices near each other, keep one."""
        kept = self._cases.setdefault(case, [])
        near = [old for old in kept if old.index // _NEAR == index // _NEAR]
        if not near or near[0].area < area:
            far = [old for old in kept if old not in near]
            kept[:] = sorted([*far, _Shown(index, area, row)], key=lambda shown: -shown.area)[: self.num_images]

    def chosen(self) -> list[Row]:
        """Return the chosen rows: the largest slice of each case, then the second largest, up to ``num_images``."""
        ranked = [(rank, case, image) for case, kept in self._cases.items() for rank, image in enumerate(kept)]
        shown = sorted(ranked, key=lambda item: item[0])[: self.num_images]
        order = list(self._cases)
        shown.sort(key=lambda item: (order.index(item[1]), item[2].index))
        return [image.row for _, _, image in shown]


class SamplePanels(SegmentationCallback):
    """Draws ``panel.png`` of the first test cases: image, reference, samples, mask, mean and disagreement.

    Of a volume it draws the slices with the most foreground in reference and mask.

    Args:
        num_images: Number of rows.
        num_samples: Number of samples of each image.
    """

    stage = Stage.LOOK

    def __init__(self, num_images: int = 6, num_samples: int = 4) -> None:
        self.num_images, self.num_samples = num_images, num_samples
        self.shown: LargestSlices[tuple[str, Tensor, Tensor, Segmentation]] = LargestSlices(num_images)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the images of the last test."""
        self.shown = LargestSlices(self.num_images)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep images of the first cases that may be drawn."""
        s = outputs["segmentation"]
        for i, case in enumerate(batch["case"]):
            if not self.shown.wants(case):
                continue
            result = Segmentation(s.samples[i].cpu(), s.probability[i].cpu(), s.uncertainty[i].cpu(), s.mask[i].cpu())
            raters = batch["raters"][i][batch["rater_valid"][i]] if "raters" in batch else batch["mask"][i][None]
            row = batch["id"][i], batch["image"][i].float().cpu(), raters.cpu(), result
            area = float(raters.float().sum() / len(raters) + result.mask.sum())
            self.shown.offer(case, int(batch["index"][i]), area, row)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw ``panel.png``."""
        path, rows = run_folder(trainer) / "panel.png", self.shown.chosen()
        if trainer.is_global_zero and rows:
            save_figure(draw_panel(rows, self.num_samples, cast(Segmenter, pl_module).regions), path)


def draw_panel(
    rows: list[tuple[str, Tensor, Tensor, Segmentation]], num_samples: int, regions: Sequence[str]
) -> Figure:
    """Draw one row per image.

    Args:
        rows: Name, image (C, H, W) in [-1, 1], raters (R, K, H, W) in {0, 1}, and the segmentation of the image without
            the batch dimension.
        num_samples: Maximum number of samples in a row.
        regions: Names of the K regions. Mean and disagreement are drawn for the first region.
    """
    shown = min(num_samples, max(len(row[3].samples) for row in rows))
    of = of_first(regions)
    titles = ["image", "reference", *[f"sample {i + 1}" for i in range(shown)], "mask"]
    titles += [f"mean of samples{of}", f"{'disagreement' if shown > 1 else 'uncertainty'}{of}"]
    figure = Figure(figsize=(1.6 * len(titles), 1.65 * len(rows) + 0.8), layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, (name, image, raters, segmentation) in zip(grid, rows, strict=True):
        for axis in axes[:-2]:
            show(axis, image)
        for axis in axes[-2:]:
            axis.set(xticks=[], yticks=[])
        label_row(axes[0], name, 1.5, 6)
        for rater in raters:
            outline(axes[1], rater, REFERENCE)
        for axis, sample in zip(axes[2:-3], segmentation.samples[:shown], strict=False):
            outline(axis, sample, SAMPLE)
        outline(axes[-3], segmentation.mask)
        show_map(axes[-2], segmentation.samples.mean(0)[0], PROBABILITY)
        show_map(axes[-1], segmentation.uncertainty[0], DISAGREEMENT)
    for axis, title in zip(grid[0], titles, strict=True):
        set_title(axis, title, 1.5)
    for axis in grid[-1][-2:]:
        scale_below(axis)
    kinds = [(REFERENCE, "reference, each rater"), (SAMPLE, "sample"), (MASK, "mask: the samples fused")]
    draw_legend(figure, legend_of(kinds, regions))
    return figure
