"""Fuse the samples of a test by another rule."""

from dataclasses import replace
from typing import Any, cast

from lightning import LightningModule, Trainer

from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.fusion import Fusion, MeanFusion
from diffmedseg.segmentation import SampleSet


class MultiSampleEnsemble(SegmentationCallback):
    """Fuses the samples of test images by another rule, without drawing new samples.

    It replaces the model's own rule and refinement.

    Args:
        fusion: The rule; None for the mean.
    """

    stage = Stage.FUSE

    def __init__(self, fusion: Fusion | None = None) -> None:
        self.fusion = fusion or MeanFusion()

    @property
    def rules(self) -> dict[str, object]:
        """The rule of fusion; there is no refinement after it."""
        return {"fusion": self.fusion}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Replace the segmentation."""
        model, before = cast(Segmenter, pl_module), outputs["segmentation"]
        size = (int(before.probability.shape[-2]), int(before.probability.shape[-1]))
        after = model.fuse_by(self.fusion, SampleSet(before.samples, before.prior), size)
        outputs["segmentation"] = replace(before, probability=after.probability, mask=after.mask, unrefined=None)
