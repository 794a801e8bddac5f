"""Callbacks: thin layers over functions that work without a Trainer."""

from diffmedseg.callbacks.case_metrics import CaseMetrics
from diffmedseg.callbacks.crf import DenseCRFRefinement
from diffmedseg.callbacks.ema import WarmupEMA
from diffmedseg.callbacks.ensemble import MultiSampleEnsemble
from diffmedseg.callbacks.ged import GeneralizedEnergyDistance
from diffmedseg.callbacks.panels import SamplePanels
from diffmedseg.callbacks.progress import EpochProgressBar
from diffmedseg.callbacks.report import TestReport
from diffmedseg.callbacks.resume import ExactResume
from diffmedseg.callbacks.samples import SampleFiles
from diffmedseg.callbacks.smallest import SmallestParts
from diffmedseg.callbacks.steps import StepStatistics
from diffmedseg.callbacks.stopping import RunStopped, StopSafely
from diffmedseg.callbacks.wandb import WandbDashboard

__all__ = [
    "CaseMetrics",
    "DenseCRFRefinement",
    "EpochProgressBar",
    "ExactResume",
    "GeneralizedEnergyDistance",
    "MultiSampleEnsemble",
    "RunStopped",
    "SampleFiles",
    "SamplePanels",
    "SmallestParts",
    "StepStatistics",
    "StopSafely",
    "TestReport",
    "WandbDashboard",
    "WarmupEMA",
]
