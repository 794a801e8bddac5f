"""Log the distance of samples to raters during training."""

import warnings
from typing import Any

from lightning import LightningModule, Trainer

from diffmedseg import metrics
from diffmedseg.callbacks.order import SegmentationCallback, Stage


class GeneralizedEnergyDistance(SegmentationCallback):
    """Logs ``val/ged`` over images with several raters, and ``val/diversity`` over all images, on the model's grid.

    The GED is unbiased, so that few samples estimate the same value as many, with more noise. With one sample, nothing
    is logged. CaseMetrics has the same scores of a test.
    """

    stage = Stage.LOOK

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the metrics on the model's device."""
        super().setup(trainer, pl_module, stage)
        self.distance = metrics.GeneralizedEnergyDistance().to(pl_module.device)
        self.diversity = metrics.SampleDiversity().to(pl_module.device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the results of the last validation."""
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
        """Log the metrics. Every process has to call this, since they add up their sums."""
        for name, metric in (("ged", self.distance), ("diversity", self.diversity)):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*called before the ``update``")  # with one rater
                value = metric.compute()
            if not value.isnan():
                pl_module.log(f"val/{name}", value, sync_dist=True)
