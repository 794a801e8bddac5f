"""Scores of every test case, as a table and a CSV."""

import csv
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from diffmedseg.atomic import write_whole
from diffmedseg.metrics.cases import (
    CASE_COLUMNS,
    CaseScore,
    ImageScore,
    Summary,
    as_row,
    score_cases,
    score_image,
    summarise,
)
from diffmedseg.models.segmenter import DiffusionSegmenter

_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "uncertainty": "Uncertainty",
    "diversity": "Diversity",
    "ged_biased": "GED (biased)",
    "ged_unbiased": "GED (unbiased)",
    "seconds": "Seconds per case",
}


def run_folder(trainer: Trainer) -> Path:
    """Return the folder that a run writes to; every process has to ask, since they agree on it together."""
    return Path(trainer.log_dir or trainer.default_root_dir)


class CaseMetrics(Callback):
    """Scores every case at native resolution and writes ``cases.csv``; prints the means with 95 % intervals.

    Comes after callbacks that replace the segmentation, since it scores what they leave.
    """

    def __init__(self) -> None:
        self.images: list[ImageScore] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        self.images = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score the images of a batch."""
        segmentation, threshold = outputs["segmentation"], cast(DiffusionSegmenter, pl_module).threshold
        for i, case in enumerate(batch["case"]):
            self.images.append(
                score_image(
                    case,
                    segmentation.probability[i],
                    segmentation.samples[i],
                    batch["reference"][i],
                    threshold,
                    outputs["seconds"],
                )
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all processes' images; write, log and print."""
        gathered = [self.images] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, self.images)
        regions = cast(DiffusionSegmenter, pl_module).regions
        rows = score_cases([image for images in gathered for image in images], regions)
        summaries = summarise(rows)
        several = len(regions) > 1
        for summary in summaries:
            name = f"test/{summary.region}/{summary.score}" if several else f"test/{summary.score}"
            pl_module.log(name, summary.mean, rank_zero_only=True)
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            write_cases(rows, folder / "cases.csv")
            Console().print(summary_table(rows, summaries))


def write_cases(rows: list[CaseScore], path: Path) -> None:
    """Write the per-case CSV, atomically."""

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, CASE_COLUMNS)
            writer.writeheader()
            writer.writerows(as_row(row) for row in rows)

    write_whole(path, save)


def summary_table(rows: list[CaseScore], summaries: list[Summary]) -> Table:
    """Lay the means out for people."""
    first = rows[0]
    empty = sum(row.both_empty for row in rows)
    policy = (
        f"mean over {len({row.case for row in rows})} cases at native resolution"
        f"{', each of all its slices' if first.num_slices > 1 else ''}, "
        f"{first.num_samples} sample{'s' * (first.num_samples > 1)} per image"
    )
    if first.num_raters > 1:
        policy += ", Dice and IoU against the majority of the raters"
    if empty:
        policy += f"; {empty} empty masks predicted empty count 1"
    table = Table(title="Test", caption=policy, caption_justify="left")
    for name in ("Region", "Score", "Mean", "95 % interval"):
        table.add_column(name, justify="left" if name in {"Region", "Score"} else "right")
    for s in summaries:
        table.add_row(s.region, _TITLES[s.score], f"{s.mean:.4f}", f"{s.low:.4f} to {s.high:.4f}")
    return table
