"""Metrics as functions, and torchmetrics classes that use them."""

from diffmedseg.metrics.bootstrap import bootstrap_interval
from diffmedseg.metrics.functional import (
    EnergyDistance,
    dice,
    diversity,
    generalized_energy_distance,
    iou,
    pairwise_distance,
    soft_dice_confidence,
    soft_overlap,
)
from diffmedseg.metrics.modules import (
    Dice,
    ForegroundCount,
    ForegroundDice,
    GeneralizedEnergyDistance,
    IoU,
    SampleDiversity,
)

__all__ = [
    "Dice",
    "EnergyDistance",
    "ForegroundCount",
    "ForegroundDice",
    "GeneralizedEnergyDistance",
    "IoU",
    "SampleDiversity",
    "bootstrap_interval",
    "dice",
    "diversity",
    "generalized_energy_distance",
    "iou",
    "pairwise_distance",
    "soft_dice_confidence",
    "soft_overlap",
]
