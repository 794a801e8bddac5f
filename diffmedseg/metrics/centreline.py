"""Agreement of thin structures by their centrelines: overlap hardly measures a vessel that is one pixel off."""

import numpy as np
import torch
from torch import Tensor


def centreline(mask: Tensor) -> Tensor:
    """Thin a mask (H, W), bool, to lines one pixel wide, by SimpleITK."""
    import SimpleITK as sitk

    # At the edge of an image the filter is wrong: it deletes thin structures, and does not thin thick structures.
    padded = np.pad(mask.cpu().numpy().astype(np.uint8), 1)
    thin = sitk.GetArrayFromImage(sitk.BinaryThinning(sitk.GetImageFromArray(padded)))
    return torch.from_numpy(thin[1:-1, 1:-1].astype(bool))


def centreline_dice(prediction: Tensor, reference: Tensor) -> float:
    """Compute clDice (Shit et al. 2021, CVPR, eq. 1 to 3).

    clDice is the harmonic mean of two shares: of the prediction's centreline within the reference, and of the
    reference's centreline within the prediction.

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
