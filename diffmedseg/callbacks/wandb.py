"""Log panels, tables and artifacts of a run to Weights & Biases."""

from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from diffmedseg.callbacks.case_metrics import CaseMetrics, run_folder
from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.callbacks.panels import LargestSlices
from diffmedseg.dashboards.artifacts import dataset_artifact, evaluation_artifact, model_artifact, use
from diffmedseg.dashboards.logger import wandb_id
from diffmedseg.dashboards.media import Picture, case_table, overlay
from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.evaluation.figures import draw_reliability, draw_risk_coverage
from diffmedseg.files import file_sha256
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.segmentation import Segmentation

_SPLITS: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class WandbDashboard(SegmentationCallback):
    """Logs panels with masks, the table of cases, calibration and artifacts. Without a WandbLogger it does nothing.

    Each validation and test logs a few pictures (``val/panels``, ``test/panels``), always of the same images. A test
    also logs ``test/cases``, ``test/reliability`` and ``test/risk_coverage``, from the scores of CaseMetrics. The data
    with its fingerprint is an input artifact of the run. Checkpoints (aliases ``best`` and ``latest``) and the files of
    a test are output artifacts. Only the first process logs, and shows its own cases.

    Args:
        num_images: Number of pictures in each epoch.
        longest: Maximum height and width of a picture in pixels.
    """

    stage = Stage.LOOK

    def __init__(self, num_images: int = 4, longest: int = 256) -> None:
        self.num_images, self.longest = num_images, longest
        self.logger: WandbLogger | None = None
        self.scorer: CaseMetrics | None = None
        self.fingerprints: dict[str, str] = {}
        self.shown: LargestSlices[Picture] = LargestSlices(num_images)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the logger and the scores, and log the data as an input artifact."""
        super().setup(trainer, pl_module, stage)
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        loggers = loggers if trainer.is_global_zero else []
        self.logger = next((logger for logger in loggers if not logger.experiment.disabled), None)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, not declared
        earlier_callbacks = callbacks[: callbacks.index(self)]
        self.scorer = next(
            (callback for callback in reversed(earlier_callbacks) if isinstance(callback, CaseMetrics)), None
        )
        if self.logger is None:
            return
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, SegmentationDataModule):
            for split in _SPLITS.get(stage, ()):
                artifact = dataset_artifact(data.info, split, data.stores[split])
                use(self.logger.experiment, artifact)
                self.fingerprints[split] = artifact.metadata["fingerprint"]
        self.logger.log_hyperparams({"fingerprints": self.fingerprints})

    # Pictures.

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the images of the last validation."""
        self.shown = LargestSlices(self.num_images)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images to show. They are chosen by the reference alone, so that all epochs show the same images."""
        if self.logger is None or trainer.sanity_checking:
            return
        segmentation: Segmentation = outputs["segmentation"]
        for i, case in enumerate(batch["case"]):
            if self.shown.wants(case):
                reference = batch["mask"][i].bool().cpu()
                samples, mask, doubt = (
                    m[i].cpu() for m in (segmentation.binary_samples, segmentation.mask, segmentation.uncertainty)
                )
                picture = Picture(batch["id"][i], batch["image"][i].float().cpu(), reference, mask, samples, doubt)
                self.shown.offer(case, int(batch["index"][i]), float(reference.sum()), picture)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the pictures."""
        self._log_panels("val/panels", trainer, pl_module)

    def _log_panels(self, key: str, trainer: Trainer, pl_module: LightningModule) -> None:
        pictures = self.shown.chosen()
        if self.logger is not None and pictures:
            regions = cast(Segmenter, pl_module).regions
            images: Any = [overlay(picture, regions, self.longest) for picture in pictures]
            self.logger.log_metrics({key: images}, trainer.global_step)

    # A test.

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log pictures, the table of cases, and the calibration of the probabilities."""
        self._log_panels("test/panels", trainer, pl_module)
        if self.logger is None or self.scorer is None or not self.scorer.rows:
            return
        import wandb

        rows = self.scorer.rows
        shown: dict[str, Any] = {"test/cases": case_table(rows)}
        for region, region_summary in self.scorer.summary["regions"].items():
            prefix = f"test/{region}/" if len(self.scorer.summary["regions"]) > 1 else "test/"
            region_rows = [row for row in rows if row.region == region]
            shown[f"{prefix}reliability"] = wandb.Image(draw_reliability(region_summary["set"]["reliability"]))
            shown[f"{prefix}risk_coverage"] = wandb.Image(draw_risk_coverage(region_rows))
        self.logger.log_metrics(shown, trainer.global_step)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the files of the test, and the checkpoint if it is from another run."""
        folder = run_folder(trainer)
        if self.logger is None:
            return
        run = self.logger.experiment
        facts: dict[str, Any] = {"fingerprint": self.fingerprints.get("test")}
        if trainer.ckpt_path is not None and Path(trainer.ckpt_path).is_file():
            checkpoint = Path(trainer.ckpt_path)
            facts["checkpoint"] = file_sha256(checkpoint)
            trained = checkpoint.parents[1]
            if trained.resolve() != folder.resolve():
                use(run, model_artifact(checkpoint, wandb_id(trained) or facts["checkpoint"][:8], {}))
        artifact = evaluation_artifact(folder, run.id, facts)
        if artifact is not None:
            run.log_artifact(artifact)

    # Checkpoints.

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the best and the last checkpoint."""
        if self.logger is None:
            return
        run, model = self.logger.experiment, cast(Segmenter, pl_module)
        savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        for saver in sorted(savers, key=lambda saver: saver.monitor is None):  # W&B names the last one logged "latest"
            if saver.best_model_path:
                facts = {"fingerprints": self.fingerprints, "learned_from": model.learned_from}
                artifact = model_artifact(Path(saver.best_model_path), run.id, facts)
                run.log_artifact(artifact, aliases=["best" if saver.monitor else "latest"])
