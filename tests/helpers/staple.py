"""STAPLE as SimpleITK has it, which ours is compared with."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray


def simpleitk_staple(masks: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return truth (H, W), sensitivity (S,) and specificity (S,) of masks (S, H, W), bool."""
    filter_ = sitk.STAPLEImageFilter()
    filter_.SetNumberOfThreads(1)  # threads cost more than they gain on small masks
    filter_.SetForegroundValue(1)
    truth = filter_.Execute([sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks])
    return sitk.GetArrayFromImage(truth), np.array(filter_.GetSensitivity()), np.array(filter_.GetSpecificity())
