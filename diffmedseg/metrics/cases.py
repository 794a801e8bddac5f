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
    distance_from_overlap,
    energy_from_distances,
    iou_from_counts,
    off_diagonal_mean,
    pairwise_overlap,
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
        diversity: Mean distance 1 - IoU between two samples, of volumes as a whole; NaN with one sample.
        ged_biased: GED as papers print it; NaN with one rater. Lower is better.
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
    pairs: Tensor  # (2, K, S + R, S + R): intersection and union of every two masks, samples before raters
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
    everyone = torch.cat([masks, reference.bool()])
    pairs = [torch.stack(pairwise_overlap(everyone[:, k], everyone[:, k])) for k in range(reference.shape[1])]
    return ImageScore(
        case,
        counts=torch.stack(confusion_counts(mask, majority(reference).bool())),
        overlap=torch.stack(soft_overlap(probability, mask)),
        pairs=torch.stack(pairs, 1),
        num_samples=len(samples),
        num_raters=len(reference),
        seconds=seconds,
    )


def score_cases(
    images: Sequence[ImageScore],
    regions: Sequence[str],
    surfaces: Mapping[str, Sequence[SurfaceScores]] | None = None,
) -> list[CaseScore]:
    """Pool the images of each case: its slices are scored as one volume, whose samples share their noise.

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
        distances = distance_from_overlap(*torch.stack([image.pairs for image in slices]).double().sum(0))
        samples = slices[0].num_samples
        surface = (surfaces or {}).get(case, unknown)
        for k, region in enumerate(regions):
            tp, fp, fn = counts[:, k]
            among = distances[k, :samples, :samples], distances[k, :samples, samples:], distances[k, samples:, samples:]
            energy = energy_from_distances(*among) if slices[0].num_raters > 1 else None
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
                    diversity=float(off_diagonal_mean(among[0])),
                    ged_biased=float(energy.biased) if energy else float("nan"),
                    ged_unbiased=float(energy.unbiased) if energy else float("nan"),
                    num_slices=len(slices),
                    num_samples=samples,
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
