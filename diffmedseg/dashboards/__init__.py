"""Logging to Weights & Biases. wandb is imported only when a run logs to it."""

from diffmedseg.dashboards.logger import WandbRunLogger, default_logger

__all__ = ["WandbRunLogger", "default_logger"]
