"""What a run shows in Weights & Biases. Nothing here imports wandb before a run logs to it."""

from diffmedseg.dashboards.logger import WandbRunLogger, default_logger

__all__ = ["WandbRunLogger", "default_logger"]
