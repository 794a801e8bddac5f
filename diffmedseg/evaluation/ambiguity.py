"""The ambiguity benchmark: samples of any method against several raters, by one protocol."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from rich.progress import track as progress
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.evaluation.sample_folders import SampleFolder
from diffmedseg.evaluation.summary import POLICY, plain
from diffmedseg.evaluation.worst_sets import choose_worst, draw_sets
from diffmedseg.metrics.calibration import calibration_error_interval, expected_calibration_error
from diffmedseg.metrics.cases import GED_SAMPLES, MATCHED_SAMPLES, score_cases, summarise
from diffmedseg.metrics.images import ImageScore, score_image
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.postprocessing.fusion import MajorityFusion
from diffmedseg.wording import first_names

Track = Literal["all", "nonempty"]

#: The reported scores of a set of samples, in this order.
SCORES = (
    *(f"ged_{n}" for n in GED_SAMPLES),
    *("ged_biased", "ged_unbiased", "distance_to_raters", "diversity", "rater_diversity"),
    *(f"{kind}_iou_{n}" for kind in ("hungarian", "rectangular") for n in MATCHED_SAMPLES),
    *("hungarian_iou", "dice", "iou", "found", "left_empty", "samples_filled", "raters_filled", "brier"),
)
#: Number of samples that a score needs, if more than one.
NEEDED = (
    {f"ged_{n}": n for n in GED_SAMPLES}
    | {"ged_unbiased": 2, "diversity": 2}
    | {f"{kind}_iou_{n}": n for kind in ("hungarian", "rectangular") for n in MATCHED_SAMPLES}
)
#: Scores of a single mask, such as a rater's. Distances between distributions need several masks.
_OF_ONE_MASK = (
    *("dice", "iou", "sensitivity", "precision", "found", "left_empty", "distance_to_raters", "hungarian_iou"),
    *("samples_filled", "brier"),
)
_CALIBRATION_ERRORS = ("ece", "ece_neighbourhood")
_FUSION, _THRESHOLD = MajorityFusion(), 0.5

#: The rules of the benchmark; some are the same as in every test.
PROTOCOL = {name: POLICY[name] for name in ("aggregation", "interval", "both_empty", "one_empty", "field_of_view")} | {
    "resolution": "native: samples have the size of the reference",
    "reference": POLICY["reference"],
    "fused": "majority of the samples: foreground in more than half of them",
    "probability": "share of the samples with foreground at the pixel",
    "ged": POLICY["ged"],
    "ged_bias": "bias of the biased GED of 16 and of 100 samples: diversity / 16 and diversity / 100",
    "hungarian_iou": POLICY["hungarian_iou"],
    "rectangular_iou": POLICY["rectangular_iou"],
    "first_samples": POLICY["first_samples"],
    "found": POLICY["found"],
    "brier": "mean over pixels and raters of the squared difference of probability and rater",
    "ece": f"{POLICY['ece']}; the interval has 1,000 draws of whole patients",
    "tracks": "all: every image; nonempty: images in which every rater has foreground",
    "raters": "each rater's mask against the other raters, averaged over the raters; a score that is not defined for a "
    "rater (found, left_empty) is averaged over the others; GED is left out, since it needs several masks",
}


@dataclass
class Scored:
    """Scores of the images of a track.

    Attributes:
        rows: A row for each image and region.
        reliability: Counts of each patient, (2, K, 3, bins): of whole images and of neighbourhoods of lesions.
    """

    rows: list[CaseScore] = field(default_factory=list)
    reliability: dict[str, Tensor] = field(default_factory=dict)

    def add(self, rows: Sequence[CaseScore], images: Sequence[ImageScore]) -> None:
        """Add an image: its rows, and the sums that they were computed from."""
        self.rows += rows
        patient, counts = rows[0].patient, torch.stack([image.reliability[:2] for image in images]).sum(0)
        self.reliability[patient] = self.reliability[patient] + counts if patient in self.reliability else counts

    def summary(self) -> dict[str, Any]:
        """Return mean, interval and number of images of each score, by region; NaN for undefined values."""
        regions: dict[str, Any] = defaultdict(dict)
        for mean in summarise(self.rows):
            if mean.score in SCORES:
                regions[mean.region][mean.score] = _entry(mean.mean, mean.low, mean.high, mean.cases)
        for k, (region, scores) in enumerate(regions.items()):
            regions[region] = _with_bias(scores)
            images = sum(row.region == region for row in self.rows)
            for part, name in enumerate(_CALIBRATION_ERRORS):
                counts = [patient[part, k] for patient in self.reliability.values()]
                error = expected_calibration_error(torch.stack(counts).sum(0))
                regions[region][name] = _entry(error, *calibration_error_interval(counts), images)
        return dict(regions)


def _with_bias(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Return scores in the order of ``SCORES``; insert the bias, diversity / n, after each GED of n samples."""
    biases = {f"ged_{n}": n for n in GED_SAMPLES}
    ordered: dict[str, Mapping[str, float]] = {}
    for name in (score for score in SCORES if score in scores):
        ordered[name] = scores[name]
        if name in biases:
            spread = scores["diversity"]
            bias = {end: spread[end] / biases[name] for end in ("mean", "low", "high")}
            ordered[f"{name}_bias"] = bias | {"cases": spread["cases"]}
    return ordered


def _entry(mean: float, low: float, high: float, images: int) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "cases": images}


@dataclass
class Ambiguity:
    """The result of the benchmark.

    Attributes:
        title: Title of the data set.
        split: The split.
        num_samples: S; None if only raters were scored.
        num_raters: The different numbers of raters of images.
        samples: The scores of the samples, by track; empty without samples.
        raters: The scores of each rater's mask against the other raters, by track.
    """

    title: str
    split: Split
    num_samples: int | None
    num_raters: list[int]
    samples: dict[Track, Scored]
    raters: dict[Track, Scored]

    @property
    def left_out(self) -> list[str]:
        """The scores that need more samples per image."""
        return [] if self.num_samples is None else [name for name, least in NEEDED.items() if least > self.num_samples]

    def as_dict(self) -> dict[str, Any]:
        """Return all results but the scores of single images, as plain data for JSON."""
        tracks = {}
        for name, scored in self.raters.items():
            patients = len({row.patient for row in scored.rows})
            images = len({row.case for row in scored.rows})
            tracks[name] = {"images": images, "patients": patients, "raters": scored.summary()}
            tracks[name] |= {"samples": self.samples[name].summary()} if name in self.samples else {}
        result: dict[str, Any] = plain(
            {
                "benchmark": "ambiguity",
                "data": self.title,
                "split": self.split,
                "samples_per_image": self.num_samples,
                "raters": self.num_raters,
                "left_out": self.left_out,
                "tracks": tracks,
                "protocol": PROTOCOL,
            }
        )
        return result


class AmbiguityBenchmark:
    """One split of a data set with several raters.

    Args:
        data: The data set.
        split: The split.
        track: ``all`` for all images; ``nonempty`` for images in which every rater has foreground.

    Raises:
        DataError: If the data cannot be read, has one rater, has cases of several slices, or no image in the track.
    """

    def __init__(self, data: SegmentationDataModule, split: Split = "test", track: Track = "all") -> None:
        if data.info.raters < 2:
            raise DataError(f"{data.info.title} has one rater; the ambiguity benchmark needs two or more.")
        data.prepare_data()
        self.data, self.split = data, split
        self.store: ImageStore = data.load(split)
        if len(set(self.store.cases)) < len(self.store):
            raise DataError(f"{data.info.title} has cases of several slices; the ambiguity benchmark takes images.")
        filled = [self.store.filled(index).any(1) for index in range(len(self.store))]
        if alone := [name for name, raters in zip(self.store.ids, filled, strict=True) if len(raters) < 2]:
            raise DataError(
                f"{data.info.title}: {len(alone)} of {len(filled)} images have one rater ({first_names(alone)}); the "
                "ambiguity benchmark needs two or more. Remove these images.",
                alone,
            )
        self._nonempty = [bool(raters.all()) for raters in filled]
        #: Numbers of the images that are scored.
        self.indices = [i for i, nonempty in enumerate(self._nonempty) if nonempty or track == "all"]
        if not self.indices:
            raise DataError(
                f"{data.info.title}: the {split} split has no image in which every rater has foreground. Use --track "
                "all."
            )
        self.tracks: tuple[Track, ...] = ("all", "nonempty") if track == "all" else ("nonempty",)
        if not any(self._nonempty):
            self.tracks = ("all",)

    def expected(self) -> list[tuple[str, str, int, int]]:
        """Return id, patient, height and width of each image that is scored."""
        store = self.store
        return [(store.ids[i], self.data.patient(store.cases[i]), *store.size_of(i)) for i in self.indices]

    def score(self, folder: Path | None) -> Ambiguity:
        """Score samples, and each rater against the other raters. Without a folder, only score the raters.

        Args:
            folder: See :class:`~diffmedseg.evaluation.sample_folders.SampleFolder`.

        Raises:
            DataError: If samples are missing, unreadable or of other images, or their number varies between images.
        """
        store = self.store
        wanted = [store.ids[i] for i in self.indices]
        files = None if folder is None else SampleFolder(folder, wanted, store.ids)
        samples: dict[Track, Scored] = {track: Scored() for track in self.tracks if files is not None}
        raters: dict[Track, Scored] = {track: Scored() for track in self.tracks}
        first: dict[int, str] = {}  # first image with each number of samples
        num_raters: set[int] = set()
        for i in progress(self.indices, "Images"):
            reference = store.reference(i)
            num_raters.add(len(reference))
            images = [self._score(i, *masks) for masks in _each_against_others(reference)]
            self._add(raters, i, _average([self._rows(image) for image in images]), images)
            if files is not None:
                masks = files.read(store.ids[i], (reference.shape[-2], reference.shape[-1]), reference.shape[1])
                first.setdefault(len(masks), store.ids[i])
                _check_equal(first)
                image = self._score(i, masks, reference)
                self._add(samples, i, self._rows(image), [image])
        return Ambiguity(self.data.info.title, self.split, next(iter(first), None), sorted(num_raters), samples, raters)

    def draw_worst(self, scored: Scored, folder: Path, number: int) -> Figure:
        """Draw the images whose samples are farthest from the raters; see :mod:`diffmedseg.evaluation.worst_sets`.

        Args:
            scored: Scores of the samples in a track.
            folder: The folder of :meth:`score`.
            number: Maximum number of images.
        """
        store, number_of = self.store, {case: index for index, case in enumerate(self.store.cases)}
        files = SampleFolder(folder, [store.ids[i] for i in self.indices], store.ids)

        def samples_of(index: int) -> Tensor:
            reference = store.reference(index)
            return files.read(store.ids[index], (reference.shape[-2], reference.shape[-1]), reference.shape[1])

        rows = choose_worst(scored.rows, number)
        return draw_sets(rows, store, lambda row: number_of[row.case], samples_of)

    def _score(self, index: int, samples: Tensor, reference: Tensor) -> ImageScore:
        """Fuse masks (S, K, H, W), bool, by majority, and score them against raters (R, K, H, W)."""
        soft, seen = samples.float(), self.store.field_of_view(index)
        probability = _FUSION(soft[None])[0]
        return score_image(
            self.store.cases[index], probability, soft, reference, _THRESHOLD, float("nan"), field_of_view=seen
        )

    def _rows(self, image: ImageScore) -> list[CaseScore]:
        return score_cases([image], self.data.info.regions, patients={image.case: self.data.patient(image.case)})

    def _add(
        self, tracks: Mapping[Track, Scored], index: int, rows: Sequence[CaseScore], images: Sequence[ImageScore]
    ) -> None:
        for track, scored in tracks.items():
            if track == "all" or self._nonempty[index]:
                scored.add(rows, images)


def _each_against_others(reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the mask of each rater (1, K, H, W), bool, and the masks of the other raters (R - 1, K, H, W)."""
    for r in range(len(reference)):
        yield reference[r : r + 1].bool(), torch.cat([reference[:r], reference[r + 1 :]])


def _average(rows: Sequence[Sequence[CaseScore]]) -> list[CaseScore]:
    """Average the rows of several raters of an image, region by region; NaN if no rater has the score."""
    averaged = []
    for region_rows in zip(*rows, strict=True):
        left_out = {score.name: float("nan") for score in fields(CaseScore) if isinstance(score.default, float)}
        means = {name: _mean([getattr(row, name) for row in region_rows]) for name in _OF_ONE_MASK}
        empty = all(row.both_empty for row in region_rows)
        averaged.append(replace(region_rows[0], **{**left_out, **means, "both_empty": empty}))
    return averaged


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")


def _check_equal(images: Mapping[int, str]) -> None:
    """Refuse different numbers of samples; ``images`` has the first image of each number."""
    if len(images) > 1:
        numbers = " and ".join(f"{number} of {image}" for number, image in images.items())
        raise DataError(f"The numbers of samples differ: {numbers}. Give every image the same number.")
