"""Callbacks: thin, over functions that work without a Trainer."""

from diffmedseg.callbacks.case_metrics import CaseMetrics
from diffmedseg.callbacks.ema import WarmupEMA
from diffmedseg.callbacks.panels import SamplePanels

__all__ = ["CaseMetrics", "SamplePanels", "WarmupEMA"]
