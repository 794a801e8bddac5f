"""Segmenters and their networks."""

from diffmedseg.models.denoiser import Condition, Denoiser
from diffmedseg.models.diffseg.denoiser import ClassConditionalUNet, TwoTowerUNet
from diffmedseg.models.diffseg.segmenter import DiffSegSegmenter
from diffmedseg.models.medsegdiff.denoiser_lite import MedSegDiffLite
from diffmedseg.models.medsegdiff.denoiser_v1 import MedSegDiffV1
from diffmedseg.models.medsegdiff.denoiser_v2 import MedSegDiffV2
from diffmedseg.models.medsegdiff.segmenter import MedSegDiffSegmenter
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.supervised.networks import ResidualUNet, SMPNetwork
from diffmedseg.models.supervised.segmenter import SupervisedSegmenter
from diffmedseg.segmentation import Segmentation

__all__ = [
    "ClassConditionalUNet",
    "Condition",
    "Denoiser",
    "DiffSegSegmenter",
    "DiffusionSegmenter",
    "MedSegDiffLite",
    "MedSegDiffSegmenter",
    "MedSegDiffV1",
    "MedSegDiffV2",
    "ResidualUNet",
    "SMPNetwork",
    "Segmentation",
    "SupervisedSegmenter",
    "TwoTowerUNet",
]
