"""Refine the masks of a test by a CRF."""

import time
from dataclasses import replace
from typing import Any, cast

from lightning import LightningModule, Trainer

from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.crf import DenseCRF
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.segmentation import resize_soft


class DenseCRFRefinement(SegmentationCallback):
    """Refines the segmentations of test images on the model's grid; CaseMetrics scores them before and after.

    Args:
        refinement: The refinement; None for a CRF on the fused probability.
    """

    stage = Stage.REFINE

    def __init__(self, refinement: Refinement | None = None) -> None:
        self.refinement = refinement or DenseCRF()

    @property
    def rules(self) -> dict[str, object]:
        """The refinement."""
        return {"refinement": self.refinement}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Replace the segmentation, and keep the unrefined probability."""
        model, start, before = cast(Segmenter, pl_module), time.perf_counter(), outputs["segmentation"]
        # This replaces the model's own refinement.
        unrefined = before.probability if before.unrefined is None else before.unrefined
        refined = self.refinement(batch["image"], before.samples, unrefined, model.nested, batch["case"])
        probability = resize_soft(refined, (int(unrefined.shape[-2]), int(unrefined.shape[-1])))
        outputs["segmentation"] = replace(
            before, probability=probability, mask=probability > model.threshold, unrefined=unrefined
        )
        outputs["seconds"] += (time.perf_counter() - start) / len(batch["id"])
