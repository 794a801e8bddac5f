"""The HTML report of a test."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer

from diffmedseg.atomic import write_alone
from diffmedseg.callbacks.case_metrics import CaseMetrics, run_folder
from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.data.info import DatasetInfo
from diffmedseg.evaluation.figures import Example, example_of
from diffmedseg.evaluation.provenance import Provenance, provenance_now
from diffmedseg.evaluation.report import render_report
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.run_log import RUN_LOG


class TestReport(SegmentationCallback):
    """Writes ``report.html``: scores, calibration, the worst, median and best cases, and the curves of training.

    Put it after CaseMetrics.
    """

    stage = Stage.LOOK
    __test__ = False  # pytest would collect the class as a test

    def __init__(self) -> None:
        self.examples: dict[str, tuple[float, Example]] = {}
        self._loaded: int | None = None  # training steps of the checkpoint

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the training steps of the weights."""
        self._loaded = checkpoint.get("global_step")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the callback that computes the scores."""
        super().setup(trainer, pl_module, stage)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, not declared
        earlier_callbacks = callbacks[: callbacks.index(self)]
        scorers = [callback for callback in earlier_callbacks if isinstance(callback, CaseMetrics)]
        if not scorers:
            raise ValueError("TestReport shows the scores of CaseMetrics. Put CaseMetrics before it.")
        self.scorer = scorers[-1]

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the examples of the last test."""
        self.examples = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the slice with the most foreground of each case."""
        s = outputs["segmentation"]
        for i, case in enumerate(batch["case"]):
            raters = batch["raters"][i][batch["rater_valid"][i]]
            area = float(raters.sum()) + 1e-3 * float(s.probability[i].sum())
            if case not in self.examples or area > self.examples[case][0]:
                self.examples[case] = area, example_of(batch, s, i, cast(Segmenter, pl_module).threshold)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        model = cast(Segmenter, pl_module)
        info: DatasetInfo | None = getattr(
            getattr(trainer, "datamodule", None), "info", None
        )  # data modules of other projects have none
        gathered = [self.examples] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, self.examples)
        examples = {case: example for by_case in gathered for case, (_, example) in by_case.items()}
        path = run_folder(trainer) / "report.html"
        if trainer.is_global_zero and self.scorer.rows:
            title = model.title if info is None else f"{model.title} on {info.title}"
            source = self._provenance(trainer)
            text = render_report(title, self.scorer.summary, self.scorer.rows, examples, model.regions, source)
            write_alone(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _provenance(self, trainer: Trainer) -> Provenance:
        """Return the provenance of the scores. The log of a checkpoint is in its run."""
        if trainer.ckpt_path is None:
            return provenance_now(trainer.global_step or None, run_folder(trainer) / RUN_LOG)
        return provenance_now(self._loaded, Path(trainer.ckpt_path).resolve().parent.parent / RUN_LOG)
