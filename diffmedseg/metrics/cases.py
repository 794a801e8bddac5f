"""Scores of single cases at native resolution, and their summary."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from diffmedseg.data.store import majority
from diffmedseg.metrics.bootstrap import bootstrap_interval
from diffmedseg.metrics.functional import (
    confusion_counts,
    dice_from_counts,
    diversity,
    generalized_energy_distance,
    iou_from_counts,
    soft_dice_confidence,
    soft_overlap,
)
from diffmedseg.metrics.surface import SurfaceScores
from diffmedseg.models.segmentation import resize_soft


@dataclass(frozen=True)
class CaseScore:
    """Scores of one region of one case: a row of the per-case CSV.

    Attributes:
        case: The case; for volumes its slices are pooled into one row.
        region: The region.
        dice: Dice of the fused mask against the raters' majority. Higher is better.
        iou: IoU of the same.
        hd95: 95th percentile of the distances between the surfaces of the fused mask and of the majority, in mm; NaN
            where the spacing is not known. Lower is better.
        nsd: Share of both surfaces that lies within 1 mm of the other; NaN likewise. Higher is better.
        both_empty: Whether both are empty, which counts as full agreement.
        uncertainty: 1 - soft Dice confidence of the fused mask, in [0, 1]: high where the model expects a low Dice.
        diversity: Mean distance 1 - IoU between two samples, over the slices that any sample has foreground in; NaN
            with one sample.
        ged_biased: GED as papers print it; NaN with one rater or several slices. Lower is better.
        ged_unbiased: GED free of the number of samples; NaN likewise.
        num_slices: Images of the case.
        num_samples: S.
        num_raters: R.
        seconds: Time to segment the case.
    """

    case: str
    region: str
    dice: float
    iou: float
    hd95: float
    nsd: float
    both_empty: bool
    uncertainty: float
    diversity: float
    ged_biased: float
    ged_unbiased: float
    num_slices: int
    num_samples: int
    num_raters: int
    seconds: float


@dataclass(frozen=True)
class ImageScore:
    """What one image adds to its case: counts, so that volumes are scored as a whole. One value per region."""

    case: str
    counts: Tensor  # (3, K): true positive, false positive, false negative pixels
    overlap: Tensor  # (2, K): the sums of soft_overlap
    diversity: Tensor  # (K,)
    drawn: Tensor  # (K,), bool: whether any sample has any foreground
    ged: Tensor  # (2, K): biased, unbiased
    num_samples: int
    num_raters: int
    seconds: float


def score_image(
    case: str, probability: Tensor, samples: Tensor, reference: Tensor, threshold: float, seconds: float
) -> ImageScore:
    """Score one image at the reference's resolution, on the reference's device.

    Args:
        case: The case it belongs to.
        probability: (K, h, w), in [0, 1].
        samples: (S, K, h, w), soft, with the decision level at 0.5; resized one at a time.
        reference: (R, K, H, W), in {0, 1}: every rater's mask.
        threshold: Foreground is where the probability exceeds it.
        seconds: Time it took to segment the image.
    """
    size = (int(reference.shape[-2]), int(reference.shape[-1]))
    device = reference.device
    probability = resize_soft(probability[None].float().to(device), size)[0]
    mask = probability > threshold
    masks = torch.empty(len(samples), *reference.shape[1:], dtype=torch.bool, device=device)
    for s, sample in enumerate(samples):
        masks[s] = resize_soft(sample[None].float().to(device), size)[0] > 0.5
    raters, regions = reference.bool(), range(reference.shape[1])
    missing = torch.tensor(float("nan"))
    distances = [generalized_energy_distance(masks[:, k], raters[:, k]) for k in regions] if len(raters) > 1 else []
    return ImageScore(
        case,
        counts=torch.stack(confusion_counts(mask, majority(reference).bool())),
        overlap=torch.stack(soft_overlap(probability, mask)),
        diversity=torch.stack([diversity(masks[:, k]) for k in regions]),
        drawn=masks.any(0).flatten(1).any(1),
        ged=torch.stack([torch.stack([d.biased, d.unbiased]) for d in distances], 1)
        if distances
        else missing.expand(2, len(regions)),
        num_samples=len(samples),
        num_raters=len(raters),
        seconds=seconds,
    )


def score_cases(
    images: Sequence[ImageScore],
    regions: Sequence[str],
    surfaces: Mapping[str, Sequence[SurfaceScores]] | None = None,
) -> list[CaseScore]:
    """Pool the images of each case: overlap from summed counts, diversity as the mean over its non-empty slices.

    Args:
        images: The scores of all images, those of a case in any order.
        regions: Names of the regions.
        surfaces: By case, the surface scores of each region, where they are known.
    """
    rows = []
    unknown = [SurfaceScores(float("nan"), float("nan"))] * len(regions)
    for case, group in groupby(sorted(images, key=lambda image: image.case), key=lambda image: image.case):
        slices = list(group)
        counts = torch.stack([image.counts for image in slices]).sum(0)
        confidence = soft_dice_confidence(*torch.stack([image.overlap for image in slices]).sum(0))
        # Slices that every sample leaves empty would only dilute the diversity of those with a lesion.
        drawn = torch.stack([image.drawn for image in slices])
        spread = torch.where(drawn, torch.stack([image.diversity for image in slices]), 0).sum(0) / drawn.sum(0).clamp(
            1
        )
        spread = torch.where(drawn.any(0), spread, slices[0].diversity)
        # Samples of several slices are drawn independently: their volume has no meaningful GED.
        ged = slices[0].ged if len(slices) == 1 else slices[0].ged * float("nan")
        surface = (surfaces or {}).get(case, unknown)
        for k, region in enumerate(regions):
            tp, fp, fn = counts[:, k]
            rows.append(
                CaseScore(
                    case,
                    region,
                    dice=float(dice_from_counts(tp, fp, fn)),
                    iou=float(iou_from_counts(tp, fp, fn)),
                    hd95=surface[k].hd95,
                    nsd=surface[k].nsd,
                    both_empty=bool(tp + fp + fn == 0),
                    uncertainty=1 - float(confidence[k]),
                    diversity=float(spread[k]),
                    ged_biased=float(ged[0, k]),
                    ged_unbiased=float(ged[1, k]),
                    num_slices=len(slices),
                    num_samples=slices[0].num_samples,
                    num_raters=slices[0].num_raters,
                    seconds=sum(image.seconds for image in slices),
                )
            )
    return rows


@dataclass(frozen=True)
class Summary:
    """Mean of one score over the cases of one region, with its bootstrap interval; NaN is left out."""

    region: str
    score: str
    mean: float
    low: float
    high: float
    cases: int


SUMMARISED = ("dice", "iou", "hd95", "nsd", "uncertainty", "diversity", "ged_biased", "ged_unbiased", "seconds")


def summarise(rows: Sequence[CaseScore]) -> list[Summary]:
    """Average each score over the cases of each region; scores that no case has are left out."""
    summaries = []
    for region in dict.fromkeys(row.region for row in rows):
        for score in SUMMARISED:
            values = np.array([getattr(row, score) for row in rows if row.region == region], dtype=float)
            values = values[~np.isnan(values)]
            if len(values):
                summaries.append(Summary(region, score, float(values.mean()), *bootstrap_interval(values), len(values)))
    return summaries


CASE_COLUMNS = tuple(field.name for field in fields(CaseScore))


def as_row(score: CaseScore) -> dict[str, object]:
    """Return a row of the CSV; a score that the case does not have is empty."""
    return {name: "" if value != value else value for name, value in asdict(score).items()}
