"""Score every test case; write a table and a CSV."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffmedseg.atomic import write_alone
from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.evaluation.summary import PSEUDO, SET_TITLES, summarise_test
from diffmedseg.files import file_sha256
from diffmedseg.metrics.cases import Summary, score_cases, summarise
from diffmedseg.metrics.centreline import centreline_dice
from diffmedseg.metrics.images import ImageScore, add_to, pool, score_image
from diffmedseg.metrics.scores import TITLES, CaseScore
from diffmedseg.metrics.surface import SurfaceScores, stack_slices, surface_scores
from diffmedseg.metrics.table import CASES, write_cases
from diffmedseg.models.fusing import masks_to_score
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.components import drop_small, smallest_sizes
from diffmedseg.postprocessing.fusion import Fusion
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.wording import count


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of a run. Every process has to call this, since the processes agree on the folder."""
    return Path(trainer.log_dir or trainer.default_root_dir)


@dataclass(frozen=True)
class _Slice:
    """Masks (K, h, w), bool, of one slice at native resolution."""

    case: str
    number: int
    depth: int  # number of slices of the case; 0 if unknown
    spacing: tuple[float, ...] | None
    mask: Tensor
    reference: Tensor
    mean: Tensor | None = None  # mean of the samples, float32; only if small parts are dropped


class CaseMetrics(SegmentationCallback):
    """Scores every case at native resolution; writes ``cases.csv`` and ``metrics.json``, prints means and intervals.

    Put it after callbacks that replace the segmentation: it scores the final segmentation.
    """

    stage = Stage.LOOK

    def __init__(self) -> None:
        self.images: dict[str, ImageScore] = {}
        self.surfaces: dict[str, list[SurfaceScores]] = {}
        self.rows: list[CaseScore] = []
        self.summary: dict[str, Any] = {}
        self._open: list[_Slice] = []  # slices of the present case
        self._sizes: list[int] = []
        self._nested = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turn off the model's own scores."""
        super().setup(trainer, pl_module, stage)
        cast(Segmenter, pl_module).scores_its_tests = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turn on the model's own scores again."""
        cast(Segmenter, pl_module).scores_its_tests = True

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the results of the last test."""
        self.images, self.surfaces, self._open = {}, {}, []
        model = cast(Segmenter, pl_module)
        self._sizes, self._nested = smallest_sizes(model.smallest or {}, model.regions), model.nested
        if model.smallest and _tubular(trainer):
            raise ValueError("Vessels are scored picture by picture. Leave --smallest out.")

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
        model, segmentation = cast(Segmenter, pl_module), outputs["segmentation"]
        tubular = _tubular(trainer)
        for i, case in enumerate(batch["case"]):
            size = (int(batch["reference"][i].shape[-2]), int(batch["reference"][i].shape[-1]))
            window = batch["window"][i]
            result = model.at_reference(segmentation, batch, i)
            maps = result.probability[0], result.samples[0], batch["reference"][i]
            unrefined = None if result.unrefined is None else result.unrefined[0]
            contours = None if result.inner is None or result.outer is None else (result.inner[0], result.outer[0])
            prior = None if result.prior is None else result.prior[0]
            field_of_view, seconds = batch["field_of_view"][i], outputs["seconds"]
            image = score_image(
                case, *maps, model.threshold, seconds, unrefined, field_of_view, contours, prior, window
            )
            add_to(self.images, image)
            [mask], reference = masks_to_score(result.mask, batch, i)
            if tubular:
                scores = [centreline_dice(a, b) for a, b in zip(mask, reference, strict=True)]
                self.surfaces[case] = [SurfaceScores(math.nan, math.nan, cl_dice=score) for score in scores]
            else:
                if self._open and self._open[0].case != case:  # the slices of a case follow each other
                    self._close_case()
                mean = None
                if model.smallest:
                    mean = result.mean[0] if window is None else window.place(result.mean[0], size)
                    mean = mean if field_of_view is None else mean * field_of_view
                place = batch["index"][i], batch["num_slices"][i], batch["spacing"][i]
                self._open.append(_Slice(case, *place, mask, reference, mean))

    def _close_case(self) -> None:
        """Compute the surface scores of a case after its last slice."""
        slices, self._open = self._open, []
        slices = slices if slices[0].mean is None else self._drop_small(slices)
        spacing, numbers = slices[0].spacing, [piece.number for piece in slices]
        if spacing is None and len(slices) > 1:
            return  # the distance of the slices is unknown
        depth = slices[0].depth
        masks = [
            stack_slices([getattr(piece, name) for piece in slices], numbers, depth) for name in ("mask", "reference")
        ]
        if masks[0].shape[1] == 1:
            masks = [mask[:, 0] for mask in masks]
        spacing = None if spacing is None else spacing[-(masks[0].ndim - 1) :]
        self.surfaces[slices[0].case] = [surface_scores(a, b, spacing) for a, b in zip(*masks, strict=True)]

    def _drop_small(self, slices: list[_Slice]) -> list[_Slice]:
        """Drop small parts of a case's mask, and subtract their pixels from the sums of the case."""
        numbers, case = [piece.number for piece in slices], slices[0].case
        volume = stack_slices([piece.mask for piece in slices], numbers)
        kept = torch.from_numpy(drop_small(volume.numpy(), self._sizes, self._nested))
        cleaned = [replace(piece, mask=kept[:, piece.number]) for piece in slices]
        image = self.images[case]
        counts, overlap = image.counts.clone(), image.overlap.clone()
        for before, after in zip(slices, cleaned, strict=True):
            dropped = before.mask & ~after.mask
            true = (dropped & before.reference).sum((-2, -1))
            counts += torch.stack([-true, true - dropped.sum((-2, -1)), true])  # tp, fp, fn
            assert before.mean is not None
            overlap -= torch.stack([(before.mean * dropped).sum((-2, -1)), dropped.sum((-2, -1))])
        self.images[case] = replace(image, counts=counts, overlap=overlap)
        return cleaned

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the images of all processes; write, log and print the scores."""
        if self._open:
            self._close_case()
        gathered = [(self.images, self.surfaces)] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, (self.images, self.surfaces))
        model = cast(Segmenter, pl_module)
        surfaces = {case: scores for _, by_case in gathered for case, scores in by_case.items()}
        images = pool(image for by_case, _ in gathered for image in by_case.values())
        conformal = model.conformal
        coverage = (
            None if conformal is None else {case: conformal.check_coverage(image) for case, image in images.items()}
        )
        patients = _patients(trainer, images)
        rows = self.rows = score_cases(images.values(), model.regions, surfaces, coverage, _tubular(trainer), patients)
        summaries = summarise(rows)
        self.summary = summarise_test(images, rows, summaries, model.threshold)
        self.summary["policy"] |= _policy(model, trainer, images.values())
        self.summary["policy"] |= _pseudo_masks(trainer) | _masks_chose(model, trainer)
        several = len(model.regions) > 1
        for summary in summaries:
            name = f"test/{summary.region}/{summary.score}" if several else f"test/{summary.score}"
            pl_module.log(name, summary.mean, rank_zero_only=True)
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            tested = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
            # The hash tells later which checkpoint these scores belong to.
            self.summary["checkpoint"] = file_sha256(tested) if tested is not None and tested.is_file() else None
            write_cases(rows, folder / CASES)
            content = json.dumps(self.summary, indent=1)
            write_alone(folder / "metrics.json", lambda temporary: temporary.write_text(content, encoding="utf-8"))
            Console().print(summary_table(rows, summaries, self.summary["regions"]))
            if origin := self.summary["policy"].get(PSEUDO):
                Console().print(f"These scores compare with pseudo masks, not with true masks. Their origin: {origin}.")


def _pseudo_masks(trainer: Trainer) -> dict[str, str]:
    """Return the origin of the test's masks if they are pseudo masks; empty for true masks and for other projects."""
    pseudo_masks = getattr(getattr(trainer, "datamodule", None), "pseudo_masks", None)
    origin = None if pseudo_masks is None else pseudo_masks("test")
    return {} if origin is None else {PSEUDO: origin}


def _masks_chose(model: Segmenter, trainer: Trainer) -> dict[str, str]:
    """Return what masks chose of a model that learns from labels; empty for other models."""
    needs = getattr(model, "needs", ("mask",))
    if {"mask", "raters"} & set(needs) or trainer.ckpt_path is None or Path(trainer.ckpt_path).name == "last.ckpt":
        return {}
    calibrated = "" if model.calibration is None else " and its calibration"
    return {"masks_chose": f"the checkpoint{calibrated}, on the validation images"}


def _tubular(trainer: Trainer) -> bool:
    """Return whether the data shows vessels; False for data modules of other projects."""
    return bool(getattr(getattr(getattr(trainer, "datamodule", None), "info", None), "tubular", False))


def _patients(trainer: Trainer, cases: Iterable[str]) -> dict[str, str]:
    """Return the patient of each case; empty for data modules of other projects."""
    patient = getattr(getattr(trainer, "datamodule", None), "patient", None)
    return {} if patient is None else {case: patient(case) for case in cases}


def _policy(model: Segmenter, trainer: Trainer, images: Iterable[ImageScore]) -> dict[str, Any]:
    """Return the settings of the segmentations. Callbacks replace the model's own rules."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, not declared
    ours = [callback for callback in callbacks if isinstance(callback, SegmentationCallback)]
    changing = [callback for callback in ours if callback.stage < Stage.LOOK]
    rules: dict[str, object] = {"fusion": model.fusion, "refinement": model.refinement}
    for callback in changing:
        rules |= callback.rules
    refined = all(image.unrefined is not None for image in images)
    changed, conformal = [type(callback).__name__ for callback in changing], model.conformal
    return {
        "network": model.title,
        "members": list(model.members),
        "papers": list(model.papers),
        "learned_from": model.learned_from,
        "pretrained": _pretrained(model.initialisation),
        "fusion": settings(rules["fusion"]),
        "refinement": settings(rules["refinement"]) if refined else None,
        "calibration": None if model.calibration is None else type(model.calibration).__name__,
        "contours": conformal and {name: getattr(conformal, name) for name in ("share", "coverage", "cases")},
        "changed_by": changed,
        "num_steps": model.num_steps,
        "tta": model.tta,
        "seed": model.seed,
        "smallest": None if model.smallest is None else dict(model.smallest),
    }


def _pretrained(initialisation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the origin of a fine-tuned model's initial weights, without the names of all weights."""
    if initialisation is None:
        return None
    return {name: initialisation[name] for name in ("source", "sha256", "shares")}


def settings(rule: object) -> Any:  # noqa: ANN401
    """Return a rule, its settings and its inner rules as plain data for JSON."""
    if rule is None or isinstance(rule, bool | int | float | str):
        return rule
    if isinstance(rule, Fusion | Refinement) or is_dataclass(rule):
        public = {name: settings(value) for name, value in vars(rule).items() if not name.startswith("_")}
        return {"class": type(rule).__name__} | public
    return str(rule)


def summary_table(rows: list[CaseScore], summaries: list[Summary], regions: Mapping[str, Any]) -> Table:
    """Return the table of means, followed by the scores of the set of cases.

    A column counts the cases of each score if some cases lack a score, such as GED where a case has a single rater.

    Args:
        rows: Scores of all cases.
        summaries: Means of the scores.
        regions: ``regions`` of :func:`~diffmedseg.evaluation.summary.summarise_test`.
    """
    first = rows[0]
    empty = sum(row.both_empty for row in rows)
    number = len({row.case for row in rows})
    partial = any(summary.cases < number for summary in summaries)
    policy = (
        f"mean over {count(number, 'case')}{' or fewer, see the column Cases,' * partial} at native resolution"
        f"{', each scored as one volume' if first.num_slices > 1 else ''}, "
        f"{first.num_samples} sample{'s' * (first.num_samples > 1)} per image"
    )
    patients = len({row.patient or row.case for row in rows})
    if patients < number:
        policy += f"; intervals over {count(patients, 'patient')}"
    if max(row.num_raters for row in rows) > 1:
        policy += "; the reference is the first of two raters; the majority of three or more"
    if empty:
        policy += f"; {count(empty, 'empty mask')} predicted empty, which scores 1"
    for region, region_summary in regions.items():
        for name in region_summary["set"].get("empty_in_all_cases", []):
            policy += f"; the {name} of {region} is empty in every case"
    table = Table(title="Test", caption=policy, caption_justify="left")
    for name in ("Region", "Score", "Mean", "95 % interval", *["Cases"] * partial):
        table.add_column(name, justify="left" if name in {"Region", "Score"} else "right")
    for region, means in groupby(summaries, lambda summary: summary.region):
        for s in means:
            interval = "" if math.isnan(s.low) else f"{s.low:.4f} to {s.high:.4f}"
            table.add_row(region, TITLES[s.score], f"{s.mean:.4f}", interval, *[str(s.cases)] * partial)
        for name, title in SET_TITLES.items():
            if (value := regions[region]["set"].get(name)) is not None:
                table.add_row(region, title, f"{value:.4f}")
    return table
