"""How near the samples come to the raters while a model is trained."""

import warnings
from typing import Any

from lightning import LightningModule, Trainer

from diffmedseg import metrics
from diffmedseg.callbacks.order import SegmentationCallback, Stage


class GeneralizedEnergyDistance(SegmentationCallback):
    """Logs ``val/ged`` over images that several raters outlined, and ``val/diversity`` over all, on the model's grid.

    The unbiased form, which few samples estimate as well as many, only less surely. With one sample nothing is logged.
    A test's are among the scores of CaseMetrics.
    """

    stage = Stage.LOOK

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the metrics on the model's device."""
        super().setup(trainer, pl_module, stage)
        self.distance = metrics.GeneralizedEnergyDistance().to(pl_module.device)
        self.diversity = metrics.SampleDiversity().to(pl_module.device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self.distance.to(pl_module.device).reset()
        self.diversity.to(pl_module.device).reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the images of a batch."""
        samples = outputs["segmentation"].binary_samples
        if samples.shape[1] < 2:
            return
        self.diversity.update(samples)
        several = batch["rater_valid"].sum(1) > 1
        if several.any():
            self.distance.update(samples[several], batch["raters"][several].bool(), batch["rater_valid"][several])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log; every process asks, since they sum up together."""
        for name, metric in (("ged", self.distance), ("diversity", self.diversity)):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*called before the ``update``")  # as where there is one rater
                value = metric.compute()
            if not value.isnan():
                pl_module.log(f"val/{name}", value, sync_dist=True)
