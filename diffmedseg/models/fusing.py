"""Segmentations from fused probabilities: resizing, calibration and contours."""

from dataclasses import replace

from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.postprocessing.calibration import Calibration
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.segmentation import Segmentation, majority, resize_soft


def segmentation_of(
    samples: Tensor,
    probability: Tensor,
    size: tuple[int, int],
    threshold: float,
    unrefined: Tensor | None = None,
    prior: Tensor | None = None,
) -> Segmentation:
    """Build a segmentation of a size, without calibration and contours.

    Args:
        samples: (B, S, K, h, w), in [0, 1]; the result keeps this size of the samples.
        probability: Fused probability, (B, K, h, w).
        size: Height and width of probability, uncertainty and mask.
        threshold: The mask is where the probability is higher.
        unrefined: The probability before refinement, (B, K, h, w).
        prior: The condition network's own mask, (B, K, h, w).
    """
    probability, mean = (resize_soft(maps.float(), size) for maps in (probability, samples.mean(1)))
    unrefined = None if unrefined is None else resize_soft(unrefined.float(), size)
    uncertainty = (mean * (1 - mean)).sqrt()
    return Segmentation(samples, probability, uncertainty, probability > threshold, unrefined, prior=prior)


def calibrate(
    plain: Segmentation, calibration: Calibration | None, conformal: Conformal | None, threshold: float
) -> Segmentation:
    """Add contours to a segmentation, and calibrate its probability.

    Args:
        plain: The segmentation, without calibration and contours.
        calibration: The calibration; None for no calibration.
        conformal: The contours; None for no contours.
        threshold: The mask is where the calibrated probability is higher.
    """
    inner, outer = (None, None) if conformal is None else conformal.contours(plain.probability)
    if calibration is None:
        return replace(plain, inner=inner, outer=outer)
    probability, unrefined = calibration(plain.probability), plain.unrefined
    return replace(
        plain,
        probability=probability,
        mask=probability > threshold,
        unrefined=None if unrefined is None else calibration(unrefined),
        uncalibrated=plain,
        inner=inner,
        outer=outer,
    )


def reference_size(batch: Batch, i: int) -> tuple[int, int]:
    """Return height and width of the part of image i's reference that the model is shown."""
    reference, window = batch["reference"][i], batch["window"][i]
    return (int(reference.shape[-2]), int(reference.shape[-1])) if window is None else window.size


def masks_to_score(mask: Tensor, batch: Batch, i: int) -> tuple[Tensor, Tensor]:
    """Return the mask of image i and the majority of its raters, at the size of the reference.

    Args:
        mask: (1, K, h, w), bool, of the part of the reference that the model is shown.
        batch: The test batch.
        i: Number of the image in the batch.

    Returns:
        Mask (1, K, H, W) and reference (K, H, W), bool; without foreground outside of the field of view.
    """
    reference, window, field_of_view = batch["reference"][i], batch["window"][i], batch["field_of_view"][i]
    if window is not None:
        mask = window.place(mask, (int(reference.shape[-2]), int(reference.shape[-1])))
    truth = majority(reference).bool()
    return (mask, truth) if field_of_view is None else (mask & field_of_view, truth & field_of_view)
