"""The ambiguity benchmark: anybody's samples against several raters, by one protocol."""

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

#: What is reported of a set of samples, in this order.
SCORES = (
    *(f"ged_{n}" for n in GED_SAMPLES),
    *("ged_biased", "ged_unbiased", "distance_to_raters", "diversity", "rater_diversity"),
    *(f"{kind}_iou_{n}" for kind in ("hungarian", "rectangular") for n in MATCHED_SAMPLES),
    *("hungarian_iou", "dice", "iou", "found", "left_empty", "samples_filled", "raters_filled", "brier"),
)
#: Scores that need more than one sample, and how many.
NEEDED = (
    {f"ged_{n}": n for n in GED_SAMPLES}
    | {"ged_unbiased": 2, "diversity": 2}
    | {f"{kind}_iou_{n}": n for kind in ("hungarian", "rectangular") for n in MATCHED_SAMPLES}
)
#: Scores that one mask has; a distance between distributions is none of them.
_OF_ONE_MASK = (
    *("dice", "iou", "sensitivity", "precision", "found", "left_empty", "distance_to_raters", "hungarian_iou"),
    *("samples_filled", "brier"),
)
_PLACES = ("ece", "ece_neighbourhood")
_FUSION, _THRESHOLD = MajorityFusion(), 0.5

#: How the benchmark takes scores, beside what is the same in every test.
PROTOCOL = {name: POLICY[name] for name in ("aggregation", "interval", "both_empty", "one_empty", "field_of_view")} | {
    "resolution": "native: samples have the size of the reference",
    "reference": POLICY["reference"],
    "fused": "majority of the samples: foreground is where more than half of them have foreground",
    "probability": "share of the samples that call a pixel foreground",
    "ged": POLICY["ged"],
    "ged_bias": "what few samples add to the biased GED of 16 and of 100 samples: diversity / 16 and diversity / 100",
    "hungarian_iou": POLICY["hungarian_iou"],
    "rectangular_iou": POLICY["rectangular_iou"],
    "first_samples": POLICY["first_samples"],
    "found": POLICY["found"],
    "brier": "mean over pixels and raters of the squared difference of probability and rater",
    "ece": f"{POLICY['ece']}; the interval has 1,000 draws of whole patients",
    "tracks": "all: every image; nonempty: images in which every rater has foreground",
    "raters": "one rater's mask against the other raters, averaged over the raters; a score that a rater does not have "
    "(found, left_empty) is averaged over the other raters; the GED of one mask is left out",
}


@dataclass
class Scored:
    """Scores of the images of a track.

    Attributes:
        rows: A row for each image and region.
        reliability: By patient, (2, K, 3, bins): counts of whole images and of neighbourhoods of lesions.
    """

    rows: list[CaseScore] = field(default_factory=list)
    reliability: dict[str, Tensor] = field(default_factory=dict)

    def add(self, rows: Sequence[CaseScore], images: Sequence[ImageScore]) -> None:
        """Add an image: its rows, and what they were scored from."""
        self.rows += rows
        patient, counts = rows[0].patient, torch.stack([image.reliability[:2] for image in images]).sum(0)
        self.reliability[patient] = self.reliability[patient] + counts if patient in self.reliability else counts

    def summary(self) -> dict[str, Any]:
        """Return by region the mean, interval and number of images of each score; NaN where it is not defined."""
        regions: dict[str, Any] = defaultdict(dict)
        for one in summarise(self.rows):
            if one.score in SCORES:
                regions[one.region][one.score] = _entry(one.mean, one.low, one.high, one.cases)
        for k, (region, scores) in enumerate(regions.items()):
            regions[region] = _with_bias(scores)
            images = sum(row.region == region for row in self.rows)
            for place, name in enumerate(_PLACES):
                counts = [own[place, k] for own in self.reliability.values()]
                error = expected_calibration_error(torch.stack(counts).sum(0))
                regions[region][name] = _entry(error, *calibration_error_interval(counts), images)
        return dict(regions)


def _with_bias(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Return scores in the order of ``SCORES``, and after each GED of n samples its bias, the diversity over n."""
    biases = {f"ged_{n}": n for n in GED_SAMPLES}
    ordered: dict[str, Mapping[str, float]] = {}
    for name in (one for one in SCORES if one in scores):
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
        title: The data set.
        split: The split.
        num_samples: S; None where raters alone were scored.
        num_raters: Numbers of raters that images have.
        samples: The scores of the samples by track; empty where there are none.
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
        """Scores that need more samples than there are."""
        return [] if self.num_samples is None else [name for name, least in NEEDED.items() if least > self.num_samples]

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the scores of single images; JSON can hold it."""
        tracks = {}
        for name, own in self.raters.items():
            patients = len({row.patient for row in own.rows})
            images = len({row.case for row in own.rows})
            tracks[name] = {"images": images, "patients": patients, "raters": own.summary()}
            tracks[name] |= {"samples": self.samples[name].summary()} if name in self.samples else {}
        found: dict[str, Any] = plain(
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
        return found


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
            raise DataError(f"{data.info.title}: in no image of the {split} split every rater has foreground.")
        self.tracks: tuple[Track, ...] = ("all", "nonempty") if track == "all" else ("nonempty",)
        if not any(self._nonempty):
            self.tracks = ("all",)

    def expected(self) -> list[tuple[str, str, int, int]]:
        """Return id, patient, height and width of each image that is scored."""
        store = self.store
        return [(store.ids[i], self.data.patient(store.cases[i]), *store.size_of(i)) for i in self.indices]

    def score(self, folder: Path | None) -> Ambiguity:
        """Score samples; without a folder, each rater against the others alone.

        Args:
            folder: See :class:`~diffmedseg.evaluation.sample_folders.SampleFolder`.

        Raises:
            DataError: If samples are missing, unreadable or of other images, or their number differs between images.
        """
        store = self.store
        wanted = [store.ids[i] for i in self.indices]
        files = None if folder is None else SampleFolder(folder, wanted, store.ids)
        samples: dict[Track, Scored] = {one: Scored() for one in self.tracks if files is not None}
        raters: dict[Track, Scored] = {one: Scored() for one in self.tracks}
        first: dict[int, str] = {}  # by number of samples
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
            folder: The samples, as :meth:`score` took them.
            number: So many images at most.
        """
        store, number_of = self.store, {case: index for index, case in enumerate(self.store.cases)}
        files = SampleFolder(folder, [store.ids[i] for i in self.indices], store.ids)

        def samples_of(index: int) -> Tensor:
            reference = store.reference(index)
            return files.read(store.ids[index], (reference.shape[-2], reference.shape[-1]), reference.shape[1])

        rows = choose_worst(scored.rows, number)
        return draw_sets(rows, store, lambda row: number_of[row.case], samples_of)

    def _score(self, index: int, samples: Tensor, reference: Tensor) -> ImageScore:
        """Score masks (S, K, H, W), bool, fused by majority, against those of raters (R, K, H, W)."""
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
    """Yield each rater's mask (1, K, H, W), bool, and the masks of the others (R - 1, K, H, W)."""
    for r in range(len(reference)):
        yield reference[r : r + 1].bool(), torch.cat([reference[:r], reference[r + 1 :]])


def _average(rows: Sequence[Sequence[CaseScore]]) -> list[CaseScore]:
    """Average the rows of several raters of an image, region by region; what no rater has is NaN."""
    averaged = []
    for own in zip(*rows, strict=True):
        left_out = {one.name: float("nan") for one in fields(CaseScore) if isinstance(one.default, float)}
        means = {name: _mean([getattr(row, name) for row in own]) for name in _OF_ONE_MASK}
        empty = all(row.both_empty for row in own)
        averaged.append(replace(own[0], **{**left_out, **means, "both_empty": empty}))
    return averaged


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")


def _check_equal(images: Mapping[int, str]) -> None:
    """Refuse different numbers of samples; ``images`` has the first image of each number."""
    if len(images) > 1:
        found = " and ".join(f"{number} of {image}" for number, image in images.items())
        raise DataError(f"The numbers of samples differ: {found}. Give every image the same number.")
