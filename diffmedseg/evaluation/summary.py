"""A test in numbers, for programs: means with intervals, calibration, and how all of it was taken."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchmetrics.functional import spearman_corrcoef

from diffmedseg.metrics.calibration import aurc, expected_calibration_error, merge_bins
from diffmedseg.metrics.cases import Summary
from diffmedseg.metrics.functional import dice_from_counts
from diffmedseg.metrics.images import ImageScore
from diffmedseg.metrics.scores import FAILED_BELOW, CaseScore

#: What is the same in every test.
POLICY = {
    "aggregation": "mean over cases; NaN (a case does not have the score) is left out",
    "interval": "95 % percentile bootstrap, 10,000 draws, seed 0; whole patients are drawn, each with all its cases, "
    "where the data says which cases are of one patient, else cases",
    "resolution": "native: probability and samples are resized to the reference, bilinearly; of windows "
    "of pictures, to where these lie in it, and outside of them nothing is found",
    "both_empty": "Dice, IoU and NSD count 1, HD95 0",
    "one_empty": "Dice, IoU and NSD count 0, HD95 the diagonal of the image; precision or sensitivity is left out",
    "reference": "of two raters the first, of more their majority (ties are foreground); GED, Hungarian and best-of-N "
    "IoU, Brier score, NLL and calibration take each rater",
    "field_of_view": "where the data has one, nothing outside of it counts, in any score",
    "density": "of vessels: share of the field of view, where there is none of the picture; cases.csv has the 5th "
    "and 95th percentile over the samples",
    "thresholded_jaccard": f"0 where IoU is below {FAILED_BELOW}",
    "surfaces": "border pixels or voxels of the masks, each counted once (MONAI), not surface "
    "elements weighed by area; HD95 is the larger of the 95th percentiles of both directions; in mm, NSD at a "
    "tolerance of 1 mm; where nobody knows the spacing, as of pictures, in pixels of the "
    "original and at 2 pixels, as scores of their own (hd95_pixels, nsd_pixels)",
    "ged": "d = 1 - IoU, two empty masks 0; biased: all pairs of samples, a sample with itself included; unbiased: "
    "pairs of different samples; of raters in both all pairs, a rater with itself included. Unbiased GED = 2 "
    "distance_to_raters - diversity - rater_diversity",
    "hungarian_iou": "samples and raters are repeated to the least common multiple of their numbers and matched one to "
    "one for the largest mean IoU, two empty masks 1: the exact best matching of the two sets as distributions",
    "rectangular_iou": "samples and raters are matched one to one without repeating them, so that only as many samples "
    "count as there are raters: an oracle's choice, which some code prints as Hungarian IoU",
    "first_samples": "ged_16, ged_100, hungarian_iou_16, hungarian_iou_32, rectangular_iou_16 and rectangular_iou_32 "
    "take the first 16, 32 or 100 samples of each case",
    "found": "of cases whose reference is not empty, those whose fused mask is not, either; left_empty: of cases whose "
    "reference is empty, those whose fused mask is empty, too",
    "nll": "probabilities are kept at least 1e-6 from 0 and 1",
    "ece": "at most 17 bins over the pixels of all cases: probabilities below 0.001, those from 0.999 on, and between "
    "them 15 of about equal mass; neighbourhood: the box around any rater's mask, enlarged by half its size on each "
    "side",
    "aurc": "risk 1 - Dice over coverage, cases ordered by uncertainty (1 - soft Dice confidence)",
}

#: Scores that only the set of cases has, so that they have no interval, and what they are called for people.
SET_TITLES = {
    "dice_pooled": "Dice pooled over all cases",
    "ece": "ECE, all pixels",
    "ece_neighbourhood": "ECE, near lesions",
    "aurc": "AURC",
    "false_alarms": "False alarms, of cases without lesion",
}


def summarise_test(
    images: Mapping[str, ImageScore], rows: Sequence[CaseScore], summaries: Sequence[Summary], threshold: float
) -> dict[str, Any]:
    """Sum a test up; JSON can hold the result.

    Args:
        images: Pooled sums, by case.
        rows: Scores of the cases, region by region.
        summaries: Their means, of :func:`~diffmedseg.metrics.cases.summarise`.
        threshold: Foreground was where the probability exceeded it.

    Returns:
        ``policy``, ``cases`` (their number) and ``regions``: by region ``scores`` (by name mean, low, high, cases) and
        ``set``, what only the set of cases has. None stands for what is not defined.
    """
    first = rows[0]
    policy = POLICY | {
        "unit": "volume" if first.num_slices > 1 else "image",
        "threshold": threshold,
        "samples_per_image": first.num_samples,
        "raters": sorted({row.num_raters for row in rows}),
        "patients": len({row.patient or row.case for row in rows}),
    }
    regions: dict[str, Any] = {}
    for k, region in enumerate(dict.fromkeys(row.region for row in rows)):
        own = [row for row in rows if row.region == region]
        means = [s for s in summaries if s.region == region]
        regions[region] = {
            "scores": {s.score: {"mean": s.mean, "low": s.low, "high": s.high, "cases": s.cases} for s in means},
            "set": _of_the_set(own, [image for _, image in sorted(images.items())], k),
        }
    summary: dict[str, Any] = plain({"policy": policy, "cases": len({row.case for row in rows}), "regions": regions})
    return summary


def _of_the_set(rows: Sequence[CaseScore], images: Sequence[ImageScore], k: int) -> dict[str, Any]:
    reliability = torch.stack([image.reliability[:2, k] for image in images]).sum(0)
    tp, fp, fn = torch.stack([image.counts[:, k] for image in images]).sum(0)
    dice, doubt = ([getattr(row, name) for row in rows] for name in ("dice", "uncertainty"))
    masks = {"fused mask": [image.counts for image in images]}
    if all(image.prior is not None for image in images):
        masks["condition network's own mask"] = [image.prior for image in images if image.prior is not None]
    nothing = [name for name, counts in masks.items() if not sum(int(one[:2, k].sum()) for one in counts)]
    alarms = [not row.both_empty for row in rows if math.isnan(row.sensitivity)]  # where there is nothing to find
    several = len(set(dice)) > 1 and len(set(doubt)) > 1
    return {
        "empty_in_all_cases": nothing if fn + tp else [],
        "both_empty": sum(row.both_empty for row in rows),
        "without_lesion": len(alarms),
        "false_alarms": sum(alarms) / len(alarms) if alarms else None,
        "failure_rate": sum(row.iou < FAILED_BELOW for row in rows) / len(rows),
        "dice_pooled": float(dice_from_counts(tp, fp, fn)),  # of all pixels in one: larger lesions count more
        "ece": expected_calibration_error(reliability[0]),
        "ece_neighbourhood": expected_calibration_error(reliability[1]),
        "aurc": aurc(doubt, dice),
        "rank_correlation_dice_uncertainty": (
            float(spearman_corrcoef(torch.tensor(dice).double(), torch.tensor(doubt).double())) if several else None
        ),
        "reliability": {
            place: [
                {"pixels": int(n), "probability": float(p / n), "frequency": float(y / n)}
                for n, p, y in merge_bins(counts).T.tolist()
            ]
            for place, counts in zip(("whole", "neighbourhood"), reliability, strict=True)
        },
    }


def plain(value: Any) -> Any:  # noqa: ANN401
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
