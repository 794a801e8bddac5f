"""The scores of a case. Each is declared once, with its name, title, meaning and direction."""

from dataclasses import dataclass, field, fields
from typing import Literal

__all__ = [
    "FAILED_BELOW",
    "LOWER_IS_BETTER",
    "OF_SAMPLE_NUMBER",
    "SCORES",
    "TITLES",
    "CaseScore",
    "CoverageCheck",
    "Score",
]

#: A case with a lower IoU has failed (ISIC 2018, task 1; challenge.isic-archive.com/landing/2018/45).
FAILED_BELOW = 0.65
_NAN = float("nan")
_KEY = "score"


@dataclass(frozen=True)
class Score:
    """The description of a score.

    Attributes:
        title: Title in tables and plots, with the unit.
        meaning: Meaning in plain words.
        better: Whether ``higher`` or ``lower`` values are better; None if neither is.
        of_sample_number: Whether the value depends on the number of samples, even if their distribution is the same.
    """

    title: str
    meaning: str
    better: Literal["higher", "lower"] | None
    of_sample_number: bool = False

    @property
    def explanation(self) -> str:
        """The meaning; with a note if lower is better."""
        return f"{self.meaning}; lower is better" if self.better == "lower" else self.meaning


def _higher(title: str, meaning: str, of_sample_number: bool = False) -> float:
    """Declare a score; higher is better."""
    return _declare(Score(title, meaning, "higher", of_sample_number))


def _lower(title: str, meaning: str, of_sample_number: bool = False) -> float:
    """Declare a score; lower is better."""
    return _declare(Score(title, meaning, "lower", of_sample_number))


def _neutral(title: str, meaning: str) -> float:
    """Declare a score without a better direction."""
    return _declare(Score(title, meaning, None))


def _declare(score: Score) -> float:
    """Return the field of a score; NaN for cases without the score."""
    value: float = field(default=_NAN, metadata={_KEY: score})
    return value


@dataclass(frozen=True)
class CoverageCheck:
    """Whether the contours and the interval of area of one region held: 1 or 0.

    Attributes:
        inner_held: Whether the inner contour held.
        outer_held: Whether the outer contour held.
        area_held: Whether the interval of the area held.
        between_contours: Area between the two contours, as a share of the true area; NaN if the true area is 0.
    """

    inner_held: float
    outer_held: float
    area_held: float
    between_contours: float


@dataclass(frozen=True)
class CaseScore:
    """Scores of one region of one case: a row of the per-case CSV. NaN marks scores that the case does not have.

    The reference is the mask of the only rater, of the first of two raters, or the majority of three or more.
    :data:`SCORES` has the meaning of each score.

    Attributes:
        case: The case. The slices of a volume are pooled into one row.
        region: The region.
        both_empty: Whether fused mask and reference are empty; this counts as full agreement.
        num_slices: Number of images of the case.
        num_samples: Number of samples, S.
        num_raters: Number of raters, R.
        density_low: 5th percentile of ``density`` over the samples.
        density_high: 95th percentile of ``density`` over the samples.
        patient: Patient of the case; empty if unknown. If known, intervals are over patients.
    """

    case: str
    region: str
    dice: float = field(
        metadata={_KEY: Score("Dice", "overlap of the fused mask with the reference, 0 to 1", "higher")}
    )
    iou: float = field(metadata={_KEY: Score("IoU", "intersection over union, a stricter overlap", "higher")})
    both_empty: bool
    num_slices: int
    num_samples: int
    num_raters: int
    thresholded_jaccard: float = _higher(
        "Thresholded Jaccard", f"IoU, but 0 below {FAILED_BELOW}: such a case has failed (ISIC 2018)"
    )
    dice_unrefined: float = _higher("Dice before refinement", "Dice before a CRF or another refinement")
    dice_prior: float = _higher(
        "Dice of the condition network alone",
        "Dice of the condition network's own mask, which sampling should exceed",
    )
    sensitivity: float = _higher("Sensitivity", "share of the reference that was found")
    precision: float = _higher("Precision", "share of the fused mask that is right")
    hd95: float = _lower("HD95, mm", "distance between the outlines of mask and reference, without the worst 5 %")
    nsd: float = _higher("NSD at 1 mm", "share of both outlines within 1 mm of the other")
    hd95_pixels: float = _lower(
        "HD95, pixels",
        "distance between the outlines, without the worst 5 %, in pixels of the original; for pictures without spacing",
    )
    nsd_pixels: float = _higher(
        "NSD at 2 pixels", "share of both outlines within 2 pixels of the other; for pictures without spacing"
    )
    cl_dice: float = _higher("clDice", "overlap of the centrelines of vessels")
    density: float = _neutral(
        "Density", "share of vessels of the fused mask in the field of view, or in the picture without a known field"
    )
    density_reference: float = _neutral("Density of the reference", "the same share in the reference")
    uncertainty: float = _lower(
        "Uncertainty",
        "1 - soft Dice confidence of the fused mask: high if the model expects a low Dice; for an empty mask the share "
        "of non-empty samples",
    )
    diversity: float = _neutral("Diversity", "mean distance 1 - IoU between two different samples")
    distance_to_raters: float = _lower("Distance to raters", "mean distance 1 - IoU between a sample and a rater")
    rater_diversity: float = _neutral(
        "Diversity of raters", "mean distance 1 - IoU between two raters, including each rater with itself"
    )
    ged_biased: float = _lower(
        "GED (biased)", "generalised energy distance between samples and raters, as in papers", of_sample_number=True
    )
    ged_unbiased: float = _lower(
        "GED (unbiased)", "2 distance to raters - diversity - diversity of raters; independent of the number of samples"
    )
    ged_16: float = _lower("GED (biased) of 16 samples", "biased GED of the first 16 samples")
    ged_100: float = _lower("GED (biased) of 100 samples", "biased GED of the first 100 samples")
    hungarian_iou: float = _higher(
        "Hungarian IoU",
        "mean IoU of samples and raters, repeated to equal numbers and matched one to one",
        of_sample_number=True,
    )
    hungarian_iou_16: float = _higher("Hungarian IoU of 16 samples", "Hungarian IoU of the first 16 samples")
    hungarian_iou_32: float = _higher("Hungarian IoU of 32 samples", "Hungarian IoU of the first 32 samples")
    rectangular_iou_16: float = _higher(
        "Rectangular matching IoU of 16 samples",
        "mean IoU of each rater with a different one of the first 16 samples, picked by an oracle; some code prints it "
        "as Hungarian IoU, and it grows with the number of samples",
    )
    rectangular_iou_32: float = _higher("Rectangular matching IoU of 32 samples", "the same with the first 32 samples")
    best_of_n_iou: float = _higher(
        "Best-of-N IoU",
        "mean over raters of the IoU with the best sample, picked by an oracle",
        of_sample_number=True,
    )
    rater_correlation: float = _higher(
        "Correlation with raters", "correlation over pixels of the samples' variance with the raters', -1 to 1"
    )
    found: float = _higher("Lesion found at all", "share of cases with a lesion whose fused mask is not empty")
    left_empty: float = _higher(
        "Empty reference left empty", "share of cases without a lesion whose fused mask is empty"
    )
    samples_filled: float = _neutral("Samples not empty", "share of non-empty samples; best is the share of the raters")
    raters_filled: float = _neutral("Raters not empty", "share of raters with a non-empty mask")
    brier: float = _lower("Brier score", "mean over pixels and raters of the squared error of the fused probability")
    brier_unrefined: float = _lower("Brier score before refinement", "Brier score before a CRF or another refinement")
    nll: float = _lower("NLL, nats", "mean over pixels and raters of the negative log-likelihood")
    nll_unrefined: float = _lower("NLL before refinement, nats", "NLL before a CRF or another refinement")
    inner_held: float = _higher(
        "Inner contour held", "share of cases whose inner contour is almost fully within the reference"
    )
    outer_held: float = _higher(
        "Outer contour held", "share of cases whose reference is almost fully within the outer contour"
    )
    area_held: float = _higher("Area within its interval", "share of cases whose true area is within its interval")
    between_contours: float = _lower(
        "Between the contours, of the true area", "area between the two contours, as a share of the true area"
    )
    seconds: float = _lower("Seconds per case", "time to segment the case")
    density_low: float = _NAN
    density_high: float = _NAN
    patient: str = ""


#: The reported scores by name, in the order of tables.
SCORES: dict[str, Score] = {row.name: row.metadata[_KEY] for row in fields(CaseScore) if _KEY in row.metadata}
#: The titles of the scores.
TITLES = {name: score.title for name, score in SCORES.items()}
#: Names of the scores that depend on the number of samples.
OF_SAMPLE_NUMBER = {name for name, score in SCORES.items() if score.of_sample_number}
#: Names of the scores for which lower is better.
LOWER_IS_BETTER = {name for name, score in SCORES.items() if score.better == "lower"}
