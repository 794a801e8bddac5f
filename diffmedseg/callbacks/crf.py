"""Refining the masks of a test by a CRF."""

import time
from typing import Any, cast

from lightning import LightningModule, Trainer

from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.crf import DenseCRF, Refinement
from diffmedseg.models.segmenter import DiffusionSegmenter


class DenseCRFRefinement(SegmentationCallback):
    """Refines the segmentations of test images on the model's grid; CaseMetrics scores them before and after.

    Args:
        refinement: The scheme; None for a CRF on the fused probability.
    """

    stage = Stage.REFINE

    def __init__(self, refinement: Refinement | None = None) -> None:
        self.refinement = refinement or DenseCRF()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Replace the segmentation, and keep what it was."""
        model, start = cast(DiffusionSegmenter, pl_module), time.perf_counter()
        outputs.setdefault("unrefined", outputs["segmentation"])
        outputs["segmentation"] = self.refinement(
            batch["image"], outputs["segmentation"], model.threshold, model.nested, batch["case"]
        )
        outputs["seconds"] += (time.perf_counter() - start) / len(batch["id"])
