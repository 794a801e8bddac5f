"""Scores of single cases at native resolution, and their summary."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffmedseg.metrics.bootstrap import bootstrap_interval
from diffmedseg.metrics.functional import (
    dice_from_counts,
    distance_from_overlap,
    energy_from_distances,
    iou_from_counts,
    mask_confidence,
    off_diagonal_mean,
)
from diffmedseg.metrics.images import ImageScore, pool, score_image
from diffmedseg.metrics.matching import best_of_n_iou, hungarian_iou, rectangular_iou
from diffmedseg.metrics.surface import SurfaceScores

if TYPE_CHECKING:
    from diffmedseg.conformal import Held

__all__ = ["CaseScore", "Summary", "score_cases", "score_image", "summarise"]

_NAN = float("nan")
#: ISIC 2018, task 1: a case whose IoU is below counts as failed (challenge.isic-archive.com/landing/2018/45).
JACCARD_THRESHOLD = 0.65
#: Numbers of samples with which papers print the biased GED, and the matched IoU.
GED_SAMPLES, MATCHED_SAMPLES = (16, 100), (16, 32)


@dataclass(frozen=True)
class CaseScore:
    """Scores of one region of one case: a row of the per-case CSV. NaN is what a case does not have.

    Attributes:
        case: The case; for volumes its slices are pooled into one row.
        region: The region.
        dice: Dice of the fused mask against the reference: of two raters the first, of more their majority. Higher is
            better.
        iou: IoU of the same.
        thresholded_jaccard: The same, but 0 where it is below 0.65: the ranking metric of ISIC 2018.
        dice_unrefined: Dice before a refinement such as a CRF; NaN where there was none.
        dice_prior: Dice of the mask that a condition network has of its own, without sampling; NaN where there is none.
        sensitivity: Share of the reference that is found; NaN where that is empty.
        precision: Share of the fused mask that is right; NaN where that is empty.
        hd95: 95th percentile of the distances between the surfaces of the fused mask and of the reference, in mm; NaN
            where the spacing is not known. Lower is better.
        nsd: Share of both surfaces that lies within 1 mm of the other; NaN likewise. Higher is better.
        hd95_pixels: As ``hd95``, but in pixels of the reference; NaN where the spacing is known: a mean has one unit.
        nsd_pixels: As ``nsd``, within 2 pixels; NaN likewise.
        cl_dice: Dice of centrelines; NaN but for data sets of vessels. Higher is better.
        density: Share of the pixels of the field of view, where one is known, else of the picture, that the fused mask
            has; NaN but for data sets of vessels.
        density_reference: The same of the reference.
        density_low: The 5th percentile of the same over the samples.
        density_high: The 95th.
        both_empty: Whether both are empty, which counts as full agreement.
        uncertainty: 1 - soft Dice confidence of the mask under the mean of the samples, in [0, 1]: high where the model
            expects a low Dice. Of an empty mask the share of samples that are not empty.
        diversity: Mean distance 1 - IoU between two samples, of volumes as a whole; NaN with one sample.
        distance_to_raters: Mean distance of a sample to a rater; NaN with one rater. The unbiased GED is twice this,
            less ``diversity`` and ``rater_diversity``. Lower is better.
        rater_diversity: Mean distance between two raters, a rater with itself included; NaN with one rater.
        ged_biased: GED as papers print it; NaN with one rater. Lower is better.
        ged_unbiased: GED free of the number of samples; NaN likewise.
        hungarian_iou: IoU of samples and raters at their best matching as distributions; NaN with one rater.
        best_of_n_iou: Mean over raters of the best sample's IoU, an oracle's choice; NaN with one rater.
        rater_correlation: Correlation over pixels of the samples' variance with the raters'; NaN with one rater.
        brier: Mean over pixels and raters of the squared error of the fused probability. Lower is better.
        brier_unrefined: The same before a refinement; NaN where there was none.
        nll: Mean over pixels and raters of its negative log-likelihood, in nats. Lower is better.
        nll_unrefined: The same before a refinement; NaN likewise.
        inner_held: Of a calibrated model, whether its inner contour kept what it says, 1 or 0; NaN of others.
        outer_held: Whether its outer contour did.
        area_held: Whether the true area was in its interval.
        between_contours: What lies between the two contours, as a share of the true area. Lower says more.
        num_slices: Number of images of the case.
        num_samples: Number of samples, S.
        num_raters: Number of raters, R.
        seconds: Time to segment the case.
        patient: The patient that the case is of; empty where nobody knows. Intervals are then over patients.
        ged_16: ``ged_biased`` of the first 16 samples, which are the samples of a test with 16; NaN of fewer.
        ged_100: ``ged_biased`` of the first 100 samples; NaN of fewer.
        hungarian_iou_16: ``hungarian_iou`` of the first 16 samples; NaN of fewer.
        hungarian_iou_32: The same of the first 32.
        rectangular_iou_16: Mean IoU of the best one-to-one matching of raters with some of the first 16 samples; NaN of
            fewer. Some code prints it as Hungarian IoU. It is an oracle's choice and grows with the number of samples.
        rectangular_iou_32: The same of the first 32.
        found: Where the reference is not empty, whether the fused mask is not, either: 1 or 0. NaN with one rater.
        left_empty: Where the reference is empty, whether the fused mask is empty, too: 1 or 0. NaN with one rater.
        samples_filled: Share of the samples that are not empty; NaN with one rater.
        raters_filled: Share of the raters whose mask is not empty; NaN with one rater.
    """

    case: str
    region: str
    dice: float
    iou: float
    both_empty: bool
    num_slices: int
    num_samples: int
    num_raters: int
    thresholded_jaccard: float = _NAN
    dice_unrefined: float = _NAN
    dice_prior: float = _NAN
    sensitivity: float = _NAN
    precision: float = _NAN
    hd95: float = _NAN
    nsd: float = _NAN
    hd95_pixels: float = _NAN
    nsd_pixels: float = _NAN
    cl_dice: float = _NAN
    density: float = _NAN
    density_reference: float = _NAN
    density_low: float = _NAN
    density_high: float = _NAN
    uncertainty: float = _NAN
    diversity: float = _NAN
    distance_to_raters: float = _NAN
    rater_diversity: float = _NAN
    ged_biased: float = _NAN
    ged_unbiased: float = _NAN
    hungarian_iou: float = _NAN
    best_of_n_iou: float = _NAN
    rater_correlation: float = _NAN
    brier: float = _NAN
    brier_unrefined: float = _NAN
    nll: float = _NAN
    nll_unrefined: float = _NAN
    inner_held: float = _NAN
    outer_held: float = _NAN
    area_held: float = _NAN
    between_contours: float = _NAN
    seconds: float = _NAN
    patient: str = ""
    ged_16: float = _NAN
    ged_100: float = _NAN
    hungarian_iou_16: float = _NAN
    hungarian_iou_32: float = _NAN
    rectangular_iou_16: float = _NAN
    rectangular_iou_32: float = _NAN
    found: float = _NAN
    left_empty: float = _NAN
    samples_filled: float = _NAN
    raters_filled: float = _NAN


def score_cases(
    images: Iterable[ImageScore],
    regions: Sequence[str],
    surfaces: Mapping[str, Sequence[SurfaceScores]] | None = None,
    held: Mapping[str, Sequence["Held"]] | None = None,
    tubular: bool = False,
    patients: Mapping[str, str] | None = None,
) -> list[CaseScore]:
    """Pool the images of each case: its slices are scored as one volume, whose samples share their noise.

    Args:
        images: The scores of all images, those of a case in any order.
        regions: Names of the regions.
        surfaces: By case, the surface scores of each region, where they are known.
        held: By case, what :meth:`~diffmedseg.conformal.Conformal.held` says of each region, of calibrated models.
        tubular: Whether regions are vessels, of which the density is told.
        patients: By case, the patient that it is of, where that is known.
    """
    unknown = [SurfaceScores(_NAN, _NAN)] * len(regions)
    rows = []
    for case, image in pool(images).items():
        for k, region in enumerate(regions):
            some = {} if held is None else vars(held[case][k])
            some = some | (_densities(image, k) if tubular else {})
            some = some | ({"patient": patients[case]} if patients and case in patients else {})
            rows.append(_score_region(image, k, region, (surfaces or {}).get(case, unknown)[k], some))
    return rows


def _densities(image: ImageScore, k: int) -> dict[str, float]:
    """Return what share of the pixels that count are vessels."""
    pixels, (tp, fp, fn) = image.proper[0, k], image.counts[:, k]
    of_samples = image.pairs[0, k].diagonal()[: image.num_samples] / pixels
    low, high = of_samples.quantile(of_samples.new_tensor([0.05, 0.95])).tolist()
    of_masks = {"density": float((tp + fp) / pixels), "density_reference": float((tp + fn) / pixels)}
    return of_masks | {"density_low": low, "density_high": high}


def overlap_scores(tp: int, fp: int, fn: int) -> dict[str, Any]:
    """Return the scores of :class:`CaseScore` that follow from counts of pixels."""
    counts = [torch.tensor(count) for count in (tp, fp, fn)]
    iou = float(iou_from_counts(*counts))
    return {
        "dice": float(dice_from_counts(*counts)),
        "iou": iou,
        "thresholded_jaccard": iou if iou >= JACCARD_THRESHOLD else 0.0,
        "sensitivity": tp / (tp + fn) if tp + fn else _NAN,
        "precision": tp / (tp + fp) if tp + fp else _NAN,
        "both_empty": tp + fp + fn == 0,
    }


def distance_scores(surface: SurfaceScores) -> dict[str, Any]:
    """Return the scores of :class:`CaseScore` that are distances, under the names of their unit."""
    unit = "_pixels" if surface.in_pixels else ""
    return {f"hd95{unit}": surface.hd95, f"nsd{unit}": surface.nsd}


def _score_region(
    image: ImageScore, k: int, region: str, surface: SurfaceScores, known: Mapping[str, float | str]
) -> CaseScore:
    s, (tp, fp, fn) = image.num_samples, image.counts[:, k]
    empty = (image.pairs[0, k].diagonal() == 0).double()
    samples_empty = empty[:s].mean()
    inside, total = image.overlap[:, k]
    confidence = mask_confidence(inside, total, tp + fp == 0, samples_empty)
    distances = distance_from_overlap(*image.pairs[:, k])
    among, across, raters = distances[:s, :s], distances[:s, s:], distances[s:, s:]
    some: dict[str, Any] = {**known}  # that not every case has
    if image.num_raters > 1:
        some |= _set_scores(among, across, raters)
        some |= {
            "found": float(tp + fp > 0) if tp + fn else _NAN,
            "left_empty": _NAN if tp + fn else float(fp == 0),
            "samples_filled": 1 - float(samples_empty),
            "raters_filled": 1 - float(empty[s:].mean()),
            "rater_correlation": _correlation(image.moments[:, k]),
        }
    if image.unrefined is not None:
        counts, proper = (sums[:, k] for sums in image.unrefined)
        some |= {"dice_unrefined": float(dice_from_counts(*counts))} | _proper_means(proper, "_unrefined")
    if image.prior is not None:
        some["dice_prior"] = float(dice_from_counts(*image.prior[:, k]))
    return CaseScore(
        image.case,
        region,
        **overlap_scores(*image.counts[:, k].tolist()),
        **distance_scores(surface),
        cl_dice=surface.cl_dice,
        uncertainty=1 - float(confidence),
        diversity=float(off_diagonal_mean(among)),
        **_proper_means(image.proper[:, k]),
        num_slices=image.num_slices,
        num_samples=s,
        num_raters=image.num_raters,
        seconds=image.seconds,
        **some,
    )


def _set_scores(among: Tensor, across: Tensor, raters: Tensor) -> dict[str, float]:
    """Compare the set of samples with that of raters, by distances (S, S), (S, R) and (R, R).

    Papers print 16, 32 and 100 samples. The first of many samples are those of a test with few: one test has all.
    """
    energy = energy_from_distances(among, across, raters)
    scores = {
        "distance_to_raters": float(energy.sample_rater),
        "rater_diversity": float(energy.rater_rater),
        "ged_biased": float(energy.biased),
        "ged_unbiased": float(energy.unbiased),
        "hungarian_iou": hungarian_iou(across),
        "best_of_n_iou": best_of_n_iou(across),
    }
    for n in (n for n in GED_SAMPLES if len(across) >= n):
        scores[f"ged_{n}"] = float(energy_from_distances(among[:n, :n], across[:n], raters).biased)
    for n in (n for n in MATCHED_SAMPLES if len(across) >= n):
        scores[f"hungarian_iou_{n}"] = hungarian_iou(across[:n])
        scores[f"rectangular_iou_{n}"] = rectangular_iou(across[:n])
    return scores


def _proper_means(sums: Tensor, when: str = "") -> dict[str, Any]:
    pixels, squared, surprise = sums.tolist()
    return {f"brier{when}": squared / pixels, f"nll{when}": surprise / pixels}


def _correlation(moments: Tensor) -> float:
    """Pearson correlation from number, sums, sums of squares and of products."""
    n, a, b, aa, bb, ab = moments.tolist()
    spread = (n * aa - a * a) * (n * bb - b * b)
    return (n * ab - a * b) / math.sqrt(spread) if spread > 0 else _NAN


@dataclass(frozen=True)
class Summary:
    """Mean of one score over the cases of one region, with its bootstrap interval over patients; NaN is left out."""

    region: str
    score: str
    mean: float
    low: float
    high: float
    cases: int


#: Scores whose means are reported, and what they are called for people.
TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "thresholded_jaccard": "Thresholded Jaccard",
    "dice_unrefined": "Dice before refinement",
    "dice_prior": "Dice of the condition network alone",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "hd95": "HD95, mm",
    "nsd": "NSD at 1 mm",
    "hd95_pixels": "HD95, pixels",
    "nsd_pixels": "NSD at 2 pixels",
    "cl_dice": "clDice",
    "density": "Density",
    "density_reference": "Density of the reference",
    "uncertainty": "Uncertainty",
    "diversity": "Diversity",
    "distance_to_raters": "Distance to raters",
    "rater_diversity": "Diversity of raters",
    "ged_biased": "GED (biased)",
    "ged_unbiased": "GED (unbiased)",
    "ged_16": "GED (biased) of 16 samples",
    "ged_100": "GED (biased) of 100 samples",
    "hungarian_iou": "Hungarian IoU",
    "hungarian_iou_16": "Hungarian IoU of 16 samples",
    "hungarian_iou_32": "Hungarian IoU of 32 samples",
    "rectangular_iou_16": "Rectangular matching IoU of 16 samples",
    "rectangular_iou_32": "Rectangular matching IoU of 32 samples",
    "best_of_n_iou": "Best-of-N IoU",
    "rater_correlation": "Correlation with raters",
    "found": "Lesion found at all",
    "left_empty": "Empty reference left empty",
    "samples_filled": "Samples not empty",
    "raters_filled": "Raters not empty",
    "brier": "Brier score",
    "brier_unrefined": "Brier score before refinement",
    "nll": "NLL, nats",
    "nll_unrefined": "NLL before refinement, nats",
    "inner_held": "Inner contour held",
    "outer_held": "Outer contour held",
    "area_held": "Area within its interval",
    "between_contours": "Between the contours, of the true area",
    "seconds": "Seconds per case",
}

LOWER_IS_BETTER = {
    *("hd95", "hd95_pixels", "uncertainty", "distance_to_raters", "ged_biased", "ged_unbiased", "ged_16", "ged_100"),
    *("brier", "brier_unrefined", "nll", "nll_unrefined", "between_contours", "seconds"),
}


def summarise(rows: Sequence[CaseScore]) -> list[Summary]:
    """Average each score over the cases of each region; scores that no case has are left out."""
    summaries = []
    for region in dict.fromkeys(row.region for row in rows):
        own = [row for row in rows if row.region == region]
        patients = [row.patient or row.case for row in own]
        for score in TITLES:
            values = np.array([getattr(row, score) for row in own], dtype=float)
            cases = int((~np.isnan(values)).sum())
            if cases:
                interval = bootstrap_interval(values, patients=patients)
                summaries.append(Summary(region, score, float(np.nanmean(values)), *interval, cases))
    return summaries
