"""Scores of single cases at native resolution, and their summary."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from diffmedseg.metrics.scores import FAILED_BELOW, SCORES, CaseScore, CoverageCheck
from diffmedseg.metrics.surface import SurfaceScores

__all__ = ["Summary", "score_cases", "score_image", "summarise"]

_NAN = float("nan")
#: Numbers of samples for which papers report the biased GED, and the matched IoU.
GED_SAMPLES, MATCHED_SAMPLES = (16, 100), (16, 32)


def score_cases(
    images: Iterable[ImageScore],
    regions: Sequence[str],
    surfaces: Mapping[str, Sequence[SurfaceScores]] | None = None,
    coverage: Mapping[str, Sequence[CoverageCheck]] | None = None,
    tubular: bool = False,
    patients: Mapping[str, str] | None = None,
) -> list[CaseScore]:
    """Pool the images of each case, and score each case. The slices of a case are scored as one volume.

    Args:
        images: The sums of all images, in any order.
        regions: Names of the regions.
        surfaces: Surface scores of each region, by case, if known.
        coverage: Result of :meth:`~diffmedseg.postprocessing.Conformal.check_coverage` for each region, by case, for
            calibrated models.
        tubular: Whether regions are vessels; their density is then computed.
        patients: The patient of each case, if known.
    """
    unknown = [SurfaceScores(_NAN, _NAN)] * len(regions)
    rows = []
    for case, image in pool(images).items():
        for k, region in enumerate(regions):
            optional_scores = {} if coverage is None else vars(coverage[case][k])
            optional_scores = optional_scores | (_densities(image, k) if tubular else {})
            optional_scores = optional_scores | ({"patient": patients[case]} if patients and case in patients else {})
            rows.append(_score_region(image, k, region, (surfaces or {}).get(case, unknown)[k], optional_scores))
    return rows


def _densities(image: ImageScore, k: int) -> dict[str, float]:
    """Return the share of vessels in the scored pixels: of mask, reference and samples."""
    pixels, (tp, fp, fn) = image.proper[0, k], image.counts[:, k]
    of_samples = image.pairs[0, k].diagonal()[: image.num_samples] / pixels
    low, high = of_samples.quantile(of_samples.new_tensor([0.05, 0.95])).tolist()
    of_masks = {"density": float((tp + fp) / pixels), "density_reference": float((tp + fn) / pixels)}
    return of_masks | {"density_low": low, "density_high": high}


def overlap_scores(tp: int, fp: int, fn: int) -> dict[str, Any]:
    """Return the scores of :class:`CaseScore` that depend only on counts of pixels."""
    counts = [torch.tensor(count) for count in (tp, fp, fn)]
    iou = float(iou_from_counts(*counts))
    return {
        "dice": float(dice_from_counts(*counts)),
        "iou": iou,
        "thresholded_jaccard": iou if iou >= FAILED_BELOW else 0.0,
        "sensitivity": tp / (tp + fn) if tp + fn else _NAN,
        "precision": tp / (tp + fp) if tp + fp else _NAN,
        "both_empty": tp + fp + fn == 0,
    }


def distance_scores(surface: SurfaceScores) -> dict[str, Any]:
    """Return the surface scores of :class:`CaseScore`, named by their unit."""
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
    optional_scores: dict[str, Any] = {**known}
    if image.num_raters > 1:
        optional_scores |= _set_scores(among, across, raters)
        optional_scores |= {
            "found": float(tp + fp > 0) if tp + fn else _NAN,
            "left_empty": _NAN if tp + fn else float(fp == 0),
            "samples_filled": 1 - float(samples_empty),
            "raters_filled": 1 - float(empty[s:].mean()),
            "rater_correlation": _correlation(image.moments[:, k]),
        }
    if image.unrefined is not None:
        counts, proper = (sums[:, k] for sums in image.unrefined)
        optional_scores |= {"dice_unrefined": float(dice_from_counts(*counts))} | _proper_means(proper, "_unrefined")
    if image.prior is not None:
        optional_scores["dice_prior"] = float(dice_from_counts(*image.prior[:, k]))
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
        **optional_scores,
    )


def _set_scores(among: Tensor, across: Tensor, raters: Tensor) -> dict[str, float]:
    """Compare the set of samples with the set of raters, by distances (S, S), (S, R) and (R, R).

    Papers report 16, 32 and 100 samples. The first samples do not depend on the number of samples, so that a test with
    100 samples has all these scores.
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
    """Compute the Pearson correlation from number, sums, sums of squares and sum of products."""
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


def summarise(rows: Sequence[CaseScore]) -> list[Summary]:
    """Average each score over the cases of each region; scores that no case has are left out."""
    summaries = []
    for region in dict.fromkeys(row.region for row in rows):
        region_rows = [row for row in rows if row.region == region]
        patients = [row.patient or row.case for row in region_rows]
        for score in SCORES:
            values = np.array([getattr(row, score) for row in region_rows], dtype=float)
            cases = int((~np.isnan(values)).sum())
            if cases:
                interval = bootstrap_interval(values, patients=patients)
                summaries.append(Summary(region, score, float(np.nanmean(values)), *interval, cases))
    return summaries
