"""Agreement of thin structures, which overlap hardly measures: a vessel one pixel off is the same vessel."""

import numpy as np
import torch
from torch import Tensor


def centreline(mask: Tensor) -> Tensor:
    """Thin a mask (H, W), bool, to lines one pixel wide, by SimpleITK."""
    import SimpleITK as sitk

    # At an image's edge the filter is wrong: it deletes thin structures there, and leaves thick ones thick.
    padded = np.pad(mask.cpu().numpy().astype(np.uint8), 1)
    thin = sitk.GetArrayFromImage(sitk.BinaryThinning(sitk.GetImageFromArray(padded)))
    return torch.from_numpy(thin[1:-1, 1:-1].astype(bool))


def centreline_dice(prediction: Tensor, reference: Tensor) -> float:
    """Compute clDice (Shit et al. 2021, CVPR, eq. 1 to 3).

    The harmonic mean of the share of the prediction's centreline that lies in the reference, and of the share of the
    reference's that lies in the prediction.

    Args:
        prediction: (H, W), bool.
        reference: (H, W), bool.

    Returns:
        In [0, 1]; 1 for two empty masks, 0 for an empty and a non-empty one. Higher is better.
    """
    prediction, reference = prediction.cpu(), reference.cpu()
    if not prediction.any() or not reference.any():
        return float(prediction.any() == reference.any())
    a, b = centreline(prediction), centreline(reference)
    precision, sensitivity = float(reference[a].float().mean()), float(prediction[b].float().mean())
    return 2 * precision * sensitivity / max(precision + sensitivity, 1e-12)
