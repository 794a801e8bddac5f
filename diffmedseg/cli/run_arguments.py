"""The project's settings of a run, the links from data to model, and the stored configuration."""

from collections.abc import Callable
from pathlib import Path

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import Logger

from diffmedseg.callbacks import WarmupEMA
from diffmedseg.dashboards import default_logger


class LoggedConfig(SaveConfigCallback):
    """Saves the config beside the CSV log, and passes it on to all other loggers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config without its checkpoint, so that it starts a new run."""
        self.config = self.config.clone()
        if "ckpt_path" in self.config:
            self.config["ckpt_path"] = None
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config. Lightning calls this in the first process only."""
        for logger in trainer.loggers[1:]:
            logger.log_hyperparams(yaml.safe_load(self.parser.dump(self.config, skip_unset=False)))


def add_run_arguments(parser: LightningArgumentParser) -> None:
    """Add the settings of a run: folder, initial weights, EMA, early stopping, logger."""
    parser.add_argument(
        "--experiment", type=str, default="experiment", help="Name of the experiment, such as medsegdiff-isic2017."
    )
    parser.add_argument(
        "--tags", type=list[str], default=[], help="Facts of the data that chose the recipe's settings."
    )
    parser.add_argument(
        "--recommended_encoder",
        type=str | None,
        default=None,
        help="Fact of the data: the encoder that presets use, chosen by measurement.",
    )
    parser.add_argument(
        "--pretrained",
        type=str | None,
        default=None,
        help="Zoo entry, run or checkpoint with the initial weights.",
    )
    parser.add_argument("--trust", type=list[str], default=[], help="Your own packages whose classes may be loaded.")
    parser.add_lightning_class_args(WarmupEMA, "ema")
    parser.add_argument(
        "--early_stopping",
        type=bool,
        default=True,
        help="Whether callbacks may end training when the validation score no longer improves.",
    )
    parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
    parser.add_argument(
        "--logger",
        type=Callable[[Path], Logger] | None,
        default=default_logger(),
        help="Logger beside the CSV log, made for the run's folder. Default: W&B if it is set up.",
    )


def link_facts(parser: LightningArgumentParser) -> None:
    """Link the seed to model and data, and the facts of the data to the model."""
    parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
    parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
    facts = {
        "denoiser.init_args.image_channels": lambda data: len(data.info.image_channels),
        "denoiser.init_args.mask_channels": lambda data: len(data.info.regions),
        "denoiser.init_args.spatial_dims": lambda data: 3 if data.depth else 2,
        "channels": lambda data: list(data.info.channels),
        "regions": lambda data: list(data.info.regions),
        "nested": lambda data: data.info.nested,
        "cropped": lambda data: data.info.cropped,
        "value_range": lambda data: data.info.value_range,
        "slice_input": lambda data: data.info.slice_input,
        "image_size": lambda data: list(data.image_size),
    }
    for name, fact in facts.items():
        parser.link_arguments("data", f"model.init_args.{name}", compute_fn=fact, apply_on="instantiate")
