"""Image-level labels, for models that learn from them: which the data has, and which can be made."""

from diffmedseg.data.labels.brain_rules import BrainField, LastingComponent, MirrorSymmetry
from diffmedseg.data.labels.crops import BorderCrops, MaskExcludedCrops
from diffmedseg.data.labels.deciding import CentralComponent, FieldOfView, LargestComponent, MaskRule, Plausible
from diffmedseg.data.labels.inpainted import InpaintedPairs
from diffmedseg.data.labels.own import OwnLabels, OwnPairs
from diffmedseg.data.labels.recipe import LabelRecipe
from diffmedseg.data.labels.whitening import BorderWhitening

__all__ = [
    "BorderCrops",
    "BorderWhitening",
    "BrainField",
    "CentralComponent",
    "FieldOfView",
    "InpaintedPairs",
    "LabelRecipe",
    "LargestComponent",
    "LastingComponent",
    "MaskExcludedCrops",
    "MaskRule",
    "MirrorSymmetry",
    "OwnLabels",
    "OwnPairs",
    "Plausible",
]
