"""Segmenters and their networks. Each name is imported when it is first used."""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.models.denoiser import Condition as Condition, Denoiser as Denoiser
    from diffmedseg.models.diffseg.denoiser import (
        ClassConditionalUNet as ClassConditionalUNet,
        TwoTowerUNet as TwoTowerUNet,
    )
    from diffmedseg.models.diffseg.segmenter import DiffSegSegmenter as DiffSegSegmenter
    from diffmedseg.models.ensemble import Ensemble as Ensemble
    from diffmedseg.models.medsegdiff.denoiser_lite import MedSegDiffLite as MedSegDiffLite
    from diffmedseg.models.medsegdiff.denoiser_v1 import MedSegDiffV1 as MedSegDiffV1
    from diffmedseg.models.medsegdiff.denoiser_v2 import MedSegDiffV2 as MedSegDiffV2
    from diffmedseg.models.medsegdiff.segmenter import MedSegDiffSegmenter as MedSegDiffSegmenter
    from diffmedseg.models.segmenter import DiffusionSegmenter as DiffusionSegmenter
    from diffmedseg.models.segmenting import Segmenter as Segmenter
    from diffmedseg.models.ssn.network import StochasticUNet as StochasticUNet
    from diffmedseg.models.ssn.segmenter import SSNSegmenter as SSNSegmenter
    from diffmedseg.models.supervised.networks import ResidualUNet as ResidualUNet, SMPNetwork as SMPNetwork
    from diffmedseg.models.supervised.segmenter import SupervisedSegmenter as SupervisedSegmenter
    from diffmedseg.segmentation import Segmentation as Segmentation

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.models.denoiser": ["Condition", "Denoiser"],
        "diffmedseg.models.diffseg.denoiser": ["ClassConditionalUNet", "TwoTowerUNet"],
        "diffmedseg.models.diffseg.segmenter": ["DiffSegSegmenter"],
        "diffmedseg.models.ensemble": ["Ensemble"],
        "diffmedseg.models.medsegdiff.denoiser_lite": ["MedSegDiffLite"],
        "diffmedseg.models.medsegdiff.denoiser_v1": ["MedSegDiffV1"],
        "diffmedseg.models.medsegdiff.denoiser_v2": ["MedSegDiffV2"],
        "diffmedseg.models.medsegdiff.segmenter": ["MedSegDiffSegmenter"],
        "diffmedseg.models.segmenter": ["DiffusionSegmenter"],
        "diffmedseg.models.segmenting": ["Segmenter"],
        "diffmedseg.models.ssn.network": ["StochasticUNet"],
        "diffmedseg.models.ssn.segmenter": ["SSNSegmenter"],
        "diffmedseg.models.supervised.networks": ["ResidualUNet", "SMPNetwork"],
        "diffmedseg.models.supervised.segmenter": ["SupervisedSegmenter"],
        "diffmedseg.segmentation": ["Segmentation"],
    },
)
