"""The result of the ambiguity benchmark: its scores, its protocol, and its summary."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from diffmedseg.data.base import Split
from diffmedseg.evaluation.summary import POLICY, plain
from diffmedseg.metrics.calibration import calibration_error_interval, expected_calibration_error
from diffmedseg.metrics.cases import GED_SAMPLES, MATCHED_SAMPLES, summarise
from diffmedseg.metrics.images import ImageScore
from diffmedseg.metrics.scores import CaseScore

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

_CALIBRATION_ERRORS = ("ece", "ece_neighbourhood")

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
