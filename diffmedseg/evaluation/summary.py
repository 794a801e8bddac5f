"""The summary of a test for programs: means with intervals, calibration, and the rules of all scores."""

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

#: Rules that are the same in every test.
POLICY = {
    "aggregation": "mean over cases; cases without the score (NaN) are left out",
    "interval": "95 % percentile bootstrap, 10,000 draws, seed 0; over patients with all their cases if the data names "
    "patients, else over cases",
    "resolution": "native: probability and samples are resized bilinearly to the reference; windows of pictures are "
    "pasted into an empty mask",
    "both_empty": "Dice, IoU and NSD are 1, HD95 is 0",
    "one_empty": "Dice, IoU and NSD are 0, HD95 is the diagonal of the image; precision or sensitivity is left out",
    "reference": "the first of two raters; the majority of three or more (ties are foreground); GED, Hungarian and "
    "best-of-N IoU, Brier score, NLL and calibration use each rater",
    "field_of_view": "if the data has one, all scores ignore pixels outside of it",
    "density": "share of vessels in the field of view, or in the picture if the data has none; cases.csv has the 5th "
    "and 95th percentile over the samples",
    "thresholded_jaccard": f"0 where IoU is below {FAILED_BELOW}",
    "surfaces": "border pixels or voxels of the masks, each counted once (MONAI), not surface "
    "elements weighted by area; HD95 is the larger of the 95th percentiles of both directions; in mm, NSD at a "
    "tolerance of 1 mm; without a spacing, such as for pictures, in pixels of the original and at a tolerance of 2 "
    "pixels, as separate scores (hd95_pixels, nsd_pixels)",
    "ged": "d = 1 - IoU, 0 for two empty masks; biased: all pairs of samples, including each sample with itself; "
    "unbiased: pairs of different samples; both: all pairs of raters, including each rater with itself. Unbiased GED "
    "= 2 distance_to_raters - diversity - rater_diversity",
    "hungarian_iou": "samples and raters are repeated to the least common multiple of their numbers and matched one to "
    "one for the largest mean IoU, 1 for two empty masks: the exact best matching of the two sets as distributions",
    "rectangular_iou": "samples and raters are matched one to one without repeating them, so that only as many samples "
    "as raters count: an oracle's choice, which some code prints as Hungarian IoU",
    "first_samples": "ged_16, ged_100, hungarian_iou_16, hungarian_iou_32, rectangular_iou_16 and rectangular_iou_32 "
    "use the first 16, 32 or 100 samples of each case",
    "found": "share of cases with a non-empty reference whose fused mask is not empty; left_empty: share of cases with "
    "an empty reference whose fused mask is empty",
    "nll": "probabilities are clipped: at least 1e-6, at most 1 - 1e-6",
    "ece": "at most 17 bins over the pixels of all cases: probabilities below 0.001, probabilities of at least 0.999, "
    "and 15 bins of about equal mass between them; neighbourhood: the box around all raters' masks, enlarged by half "
    "its size on each side",
    "aurc": "risk 1 - Dice over coverage, cases ordered by uncertainty (1 - soft Dice confidence)",
}

#: Key of the policy with the origin of the reference masks, if they are pseudo masks.
PSEUDO = "pseudo_masks"

#: Titles of the scores of the set of cases. They have no interval.
SET_TITLES = {
    "dice_pooled": "Dice pooled over all cases",
    "ece": "ECE, all pixels",
    "ece_neighbourhood": "ECE, near lesions",
    "aurc": "AURC",
    "false_alarms": "False alarms in cases without lesion",
}


def summarise_test(
    images: Mapping[str, ImageScore], rows: Sequence[CaseScore], summaries: Sequence[Summary], threshold: float
) -> dict[str, Any]:
    """Summarise a test as plain data for JSON.

    Args:
        images: Pooled sums of each case.
        rows: Scores of the cases, region by region.
        summaries: Means of the scores, of :func:`~diffmedseg.metrics.cases.summarise`.
        threshold: Foreground was where the probability exceeded it.

    Returns:
        ``policy``, ``cases`` (their number) and ``regions``. Each region has ``scores`` (mean, low, high and cases of
        each score) and ``set`` (scores of the set of cases). Undefined values are None.
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
        region_rows = [row for row in rows if row.region == region]
        means = [s for s in summaries if s.region == region]
        regions[region] = {
            "scores": {s.score: {"mean": s.mean, "low": s.low, "high": s.high, "cases": s.cases} for s in means},
            "set": _test_set_scores(region_rows, [image for _, image in sorted(images.items())], k),
        }
    summary: dict[str, Any] = plain({"policy": policy, "cases": len({row.case for row in rows}), "regions": regions})
    return summary


def _test_set_scores(rows: Sequence[CaseScore], images: Sequence[ImageScore], k: int) -> dict[str, Any]:
    reliability = torch.stack([image.reliability[:2, k] for image in images]).sum(0)
    tp, fp, fn = torch.stack([image.counts[:, k] for image in images]).sum(0)
    dice, doubt = ([getattr(row, name) for row in rows] for name in ("dice", "uncertainty"))
    masks = {"fused mask": [image.counts for image in images]}
    if all(image.prior is not None for image in images):
        masks["condition network's own mask"] = [image.prior for image in images if image.prior is not None]
    empty_masks = [name for name, counts in masks.items() if not sum(int(sums[:2, k].sum()) for sums in counts)]
    alarms = [not row.both_empty for row in rows if math.isnan(row.sensitivity)]  # sensitivity is NaN without a lesion
    several = len(set(dice)) > 1 and len(set(doubt)) > 1
    return {
        "empty_in_all_cases": empty_masks if fn + tp else [],
        "both_empty": sum(row.both_empty for row in rows),
        "without_lesion": len(alarms),
        "false_alarms": sum(alarms) / len(alarms) if alarms else None,
        "failure_rate": sum(row.iou < FAILED_BELOW for row in rows) / len(rows),
        "dice_pooled": float(dice_from_counts(tp, fp, fn)),  # over all pixels: larger lesions count more
        "ece": expected_calibration_error(reliability[0]),
        "ece_neighbourhood": expected_calibration_error(reliability[1]),
        "aurc": aurc(doubt, dice),
        "rank_correlation_dice_uncertainty": (
            float(spearman_corrcoef(torch.tensor(dice).double(), torch.tensor(doubt).double())) if several else None
        ),
        "reliability": {
            part: [
                {"pixels": int(n), "probability": float(p / n), "frequency": float(y / n)}
                for n, p, y in merge_bins(counts).T.tolist()
            ]
            for part, counts in zip(("whole", "neighbourhood"), reliability, strict=True)
        },
    }


def plain(value: Any) -> Any:  # noqa: ANN401
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
