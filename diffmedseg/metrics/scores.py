"""The scores of a case: one line for each says its name, what people call it, what it means and which way is better."""

from dataclasses import dataclass, field, fields
from typing import Literal

__all__ = ["FAILED_BELOW", "LOWER_IS_BETTER", "SCORES", "TITLES", "CaseScore", "Held", "Score"]

#: ISIC 2018, task 1: a case whose IoU is below counts as failed (challenge.isic-archive.com/landing/2018/45).
FAILED_BELOW = 0.65
_NAN = float("nan")
_KEY = "score"


@dataclass(frozen=True)
class Score:
    """What a score is.

    Attributes:
        title: What tables and plots call it, with its unit.
        meaning: What it says, in plain words.
        better: Whether ``higher`` or ``lower`` values are better; None where neither is.
    """

    title: str
    meaning: str
    better: Literal["higher", "lower"] | None

    @property
    def explanation(self) -> str:
        """The meaning, and which way is better where lower is."""
        return f"{self.meaning}; lower is better" if self.better == "lower" else self.meaning


def _higher(title: str, meaning: str) -> float:
    """Declare a score of which more is better."""
    return _declare(Score(title, meaning, "higher"))


def _lower(title: str, meaning: str) -> float:
    """Declare a score of which less is better."""
    return _declare(Score(title, meaning, "lower"))


def _neutral(title: str, meaning: str) -> float:
    """Declare a score of which neither more nor less is better."""
    return _declare(Score(title, meaning, None))


def _declare(score: Score) -> float:
    """Return the field of a score; NaN is the value of a case that does not have it."""
    value: float = field(default=_NAN, metadata={_KEY: score})
    return value


@dataclass(frozen=True)
class Held:
    """Whether what was said of a region of a case held, 1 or 0.

    Attributes:
        inner_held: Of the inner contour.
        outer_held: Of the outer contour.
        area_held: Of the interval for the area.
        between_contours: What is outside of the inner contour and inside of the outer one, as a share of the true area;
            NaN where that is none.
    """

    inner_held: float
    outer_held: float
    area_held: float
    between_contours: float


@dataclass(frozen=True)
class CaseScore:
    """Scores of one region of one case: a row of the per-case CSV. NaN is what a case does not have.

    The reference is the mask of one rater; of two raters the first one's, of more their majority. What each score
    means is said where it is declared, and in :data:`SCORES`.

    Attributes:
        case: The case; for volumes its slices are pooled into one row.
        region: The region.
        both_empty: Whether fused mask and reference are empty, which counts as full agreement.
        num_slices: Number of images of the case.
        num_samples: Number of samples, S.
        num_raters: Number of raters, R.
        density_low: The 5th percentile of ``density`` over the samples.
        density_high: The 95th.
        patient: The patient that the case is of; empty where nobody knows. Intervals are then over patients.
    """

    case: str
    region: str
    dice: float = field(
        metadata={_KEY: Score("Dice", "overlap of the fused mask with the reference, 0 to 1", "higher")}
    )
    iou: float = field(metadata={_KEY: Score("IoU", "the same overlap, counted more severely", "higher")})
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
        "Dice of the mask that the condition network has of its own: what sampling is to beat",
    )
    sensitivity: float = _higher("Sensitivity", "share of the reference that was found")
    precision: float = _higher("Precision", "share of the fused mask that is right")
    hd95: float = _lower("HD95, mm", "distance between the outlines of mask and reference, but for the worst 5 %")
    nsd: float = _higher("NSD at 1 mm", "share of both outlines that lies within 1 mm of the other")
    hd95_pixels: float = _lower(
        "HD95, pixels",
        "distance between the outlines, but for the worst 5 %, in pixels of the original: of pictures without spacing",
    )
    nsd_pixels: float = _higher(
        "NSD at 2 pixels", "share of both outlines that lies within 2 pixels of the other: of pictures without spacing"
    )
    cl_dice: float = _higher("clDice", "overlap of the centrelines of vessels")
    density: float = _neutral(
        "Density", "share of the field of view that is vessel in the fused mask; of the picture where no field is known"
    )
    density_reference: float = _neutral("Density of the reference", "the same share in the reference")
    uncertainty: float = _lower(
        "Uncertainty",
        "1 - soft Dice confidence of the fused mask: high where the model expects a low Dice; of an empty mask the "
        "share of samples that are not empty",
    )
    diversity: float = _neutral("Diversity", "mean distance 1 - IoU between two different samples")
    distance_to_raters: float = _lower("Distance to raters", "mean distance 1 - IoU between a sample and a rater")
    rater_diversity: float = _neutral(
        "Diversity of raters", "mean distance 1 - IoU between two raters, each with itself included"
    )
    ged_biased: float = _lower(
        "GED (biased)", "generalised energy distance between samples and raters, as papers print it"
    )
    ged_unbiased: float = _lower(
        "GED (unbiased)", "2 distance to raters - diversity - diversity of raters, which no number of samples changes"
    )
    ged_16: float = _lower("GED (biased) of 16 samples", "biased GED of the first 16 samples")
    ged_100: float = _lower("GED (biased) of 100 samples", "biased GED of the first 100 samples")
    hungarian_iou: float = _higher(
        "Hungarian IoU", "mean IoU of samples and raters, matched one to one after both are repeated to equal numbers"
    )
    hungarian_iou_16: float = _higher("Hungarian IoU of 16 samples", "Hungarian IoU of the first 16 samples")
    hungarian_iou_32: float = _higher("Hungarian IoU of 32 samples", "Hungarian IoU of the first 32 samples")
    rectangular_iou_16: float = _higher(
        "Rectangular matching IoU of 16 samples",
        "mean IoU of each rater with one of the first 16 samples of its own, picked by an oracle: some code prints it "
        "as Hungarian IoU, and it grows with the number of samples",
    )
    rectangular_iou_32: float = _higher(
        "Rectangular matching IoU of 32 samples", "the same oracle's choice of the first 32 samples"
    )
    best_of_n_iou: float = _higher("Best-of-N IoU", "mean over raters of the IoU of the sample that an oracle picks")
    rater_correlation: float = _higher(
        "Correlation with raters", "correlation over pixels of the samples' variance with the raters', -1 to 1"
    )
    found: float = _higher("Lesion found at all", "of references with a lesion, the share whose fused mask has one")
    left_empty: float = _higher(
        "Empty reference left empty", "of references without a lesion, the share whose fused mask is empty"
    )
    samples_filled: float = _neutral("Samples not empty", "share of samples that are not empty; best is the raters'")
    raters_filled: float = _neutral("Raters not empty", "share of the raters who outlined something")
    brier: float = _lower("Brier score", "mean over pixels and raters of the squared error of the fused probability")
    brier_unrefined: float = _lower("Brier score before refinement", "Brier score before a CRF or another refinement")
    nll: float = _lower("NLL, nats", "mean over pixels and raters of the negative log-likelihood")
    nll_unrefined: float = _lower("NLL before refinement, nats", "NLL before a CRF or another refinement")
    inner_held: float = _higher("Inner contour held", "how often the inner contour hardly left the reference")
    outer_held: float = _higher("Outer contour held", "how often the outer contour held the reference")
    area_held: float = _higher("Area within its interval", "how often the true area lay in its interval")
    between_contours: float = _lower(
        "Between the contours, of the true area", "what the two contours leave open, as a share of the true area"
    )
    seconds: float = _lower("Seconds per case", "time to segment the case")
    density_low: float = _NAN
    density_high: float = _NAN
    patient: str = ""


#: The scores whose means are reported, by name, in the order of tables.
SCORES: dict[str, Score] = {one.name: one.metadata[_KEY] for one in fields(CaseScore) if _KEY in one.metadata}
#: What people call them.
TITLES = {name: score.title for name, score in SCORES.items()}
#: The names of those of which less is better.
LOWER_IS_BETTER = {name for name, score in SCORES.items() if score.better == "lower"}
