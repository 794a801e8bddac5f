"""Postprocessing of samples: fusion, refinement, calibration, and contours with a guarantee."""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.postprocessing.calibration import (
        Calibration as Calibration,
        IsotonicCalibration as IsotonicCalibration,
        TemperatureScaling as TemperatureScaling,
    )
    from diffmedseg.postprocessing.conformal import Conformal as Conformal
    from diffmedseg.postprocessing.crf import (
        CRFSettings as CRFSettings,
        DenseCRF as DenseCRF,
        RandomSubsetCRF as RandomSubsetCRF,
    )
    from diffmedseg.postprocessing.fusion import (
        Fusion as Fusion,
        MajorityFusion as MajorityFusion,
        MeanFusion as MeanFusion,
        SquaredMeanFusion as SquaredMeanFusion,
        STAPLEFusion as STAPLEFusion,
    )
    from diffmedseg.postprocessing.refinement import LargestComponent as LargestComponent, Refinement as Refinement

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.postprocessing.calibration": ["Calibration", "IsotonicCalibration", "TemperatureScaling"],
        "diffmedseg.postprocessing.conformal": ["Conformal"],
        "diffmedseg.postprocessing.crf": ["CRFSettings", "DenseCRF", "RandomSubsetCRF"],
        "diffmedseg.postprocessing.fusion": [
            "Fusion", "MajorityFusion", "MeanFusion", "STAPLEFusion", "SquaredMeanFusion",
        ],
        "diffmedseg.postprocessing.refinement": ["LargestComponent", "Refinement"],
    },
)  # fmt: skip
