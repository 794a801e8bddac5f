"""LightningCLI for any segmenter and any data module: it links data to model, and gives each run a folder."""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from rich.console import Console

from diffmedseg.callbacks.resume import is_unvalidated
from diffmedseg.checkpoints import TO_TEST, check_encoder_rate, check_weights, read_checkpoint
from diffmedseg.cli.precision import fitting_precision
from diffmedseg.cli.run_arguments import add_run_arguments, link_facts
from diffmedseg.cli.run_messages import say_how_far_it_got, say_what_was_written
from diffmedseg.configurable import to_config
from diffmedseg.dashboards import WandbRunLogger
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.errors import DataError, RecipeError
from diffmedseg.evaluation.held_out import check_held_out
from diffmedseg.evaluation.trained_input import as_slice_input, check_input
from diffmedseg.models.encoders import weights_follow
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.run_log import RunLogger
from diffmedseg.runs import (
    RUN_FOLDER,
    check_strategy,
    experiment_folder,
    hold_run,
    last_checkpoint,
    remove_leftovers,
    shared_run,
    starting_checkpoint,
)
from diffmedseg.wording import innermost
from diffmedseg.zoo.pretrained import initialise_from, write_initialisation

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tested:
    """Facts of a test that are not in its configuration.

    Attributes:
        model: The model to test, such as an ensemble; None for the model of the configuration.
        trained: The data configuration that each model was trained with, by name of the model.
        trust: Packages besides diffmedseg whose classes these configurations may name.
        tables: The table of test cases that each model's training wrote, by name of the model; it may be missing.
    """

    model: Segmenter | None = None
    trained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trust: Sequence[str] = ()
    tables: Mapping[str, Path] = field(default_factory=dict)


class DiffMedSegCLI(LightningCLI):
    """Links facts of the data into the model, gives every run a folder, and tests the best checkpoint after fit."""

    model: DiffusionSegmenter
    datamodule: SegmentationDataModule

    def __init__(self, *args: Any, test: "Tested | None" = None, **kwargs: Any) -> None:
        self.test_of = test or Tested()
        super().__init__(*args, **kwargs)

    @property
    def arguments(self) -> list[str]:
        """The command line; it identifies a command within a job."""
        return list(self._arguments) if isinstance(self._arguments, list) else sys.argv[1:]

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Keep the command line."""
        self._arguments = args
        super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer.

        Raises:
            RecipeError: If a class refuses its arguments, or the Trainer lacks a device or a package; with the message
                of the class.
        """
        checkpoint = self._starting_checkpoint()
        if checkpoint is not None:
            self._take_normalisation(read_checkpoint(checkpoint, TO_TEST))
        elif self.test_of.model is not None:
            self._take_ranges(self.test_of.model.slice_input)
        try:
            with contextlib.nullcontext() if checkpoint is None and self.test_of.model is None else weights_follow():
                super().instantiate_classes()
        except (MisconfigurationException, ValueError) as error:
            raise RecipeError(innermost(str(error))) from error

    def _starting_checkpoint(self) -> Path | None:
        """Return the checkpoint that the command names. Its weights replace the initial weights of an encoder."""
        config = self._settings
        experiment = experiment_folder(config.runs, config.experiment)
        return starting_checkpoint(config.get("ckpt_path"), str(self.subcommand or "fit"), experiment)

    def _take_normalisation(self, checkpoint: Mapping[str, Any]) -> None:
        """Take an encoder's normalisation and the ranges from a checkpoint, if the configuration has none."""
        trained = checkpoint.get("hyper_parameters", {})
        self._settle_normalisation((trained.get("denoiser") or {}).get("init_args", {}))
        self._take_ranges(as_slice_input(trained.get("slice_input")))

    def _take_ranges(self, trained: SliceInput | None) -> None:
        """Write the ranges of a trained model into the configuration, so that the data does not measure its own."""
        arguments = self._settings.data.init_args
        if trained is not None and trained.ranges and "ranges" in arguments and arguments["ranges"] is None:
            arguments["ranges"] = dict(trained.ranges)

    def _settle_normalisation(self, arguments: Mapping[str, Any]) -> None:
        """Write an encoder's normalisation into the configuration, if the configuration has none."""
        denoiser = self._settings.model.init_args.get("denoiser")
        for name in ("encoder_mean", "encoder_std"):
            if denoiser is not None and name in denoiser.init_args and denoiser.init_args[name] is None:
                denoiser.init_args[name] = arguments.get(name)

    def _settle_precision(self) -> None:
        """Write the precision that suits this machine into the configuration."""
        trainer = self._settings.trainer
        trainer.precision = fitting_precision(trainer.precision, str(trainer.accelerator), self.arguments)
        self._get(self.config_init, "trainer")["precision"] = trainer.precision

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the Trainer's commands, without predict: ``diffmedseg predict`` needs no data set."""
        return {name: hidden for name, hidden in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings of a run, and the links from data to model."""
        add_run_arguments(parser)
        link_facts(parser)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Open the folder of the run, and build its loggers: the CSV log first.

        Raises:
            CheckpointError: If the checkpoint is missing, damaged, or of another model; no folder is made then.
            NoRunError: If there is no run to resume, or the strategy cannot stop and resume.
        """
        config = self._settings
        self._settle_normalisation(to_config(self.model.denoiser)["init_args"])
        self._settle_precision()
        if config.trainer.fast_dev_run:
            return super().instantiate_trainer(enable_model_summary=False, **kwargs)
        self.run_folder, checkpoint = self._open_run(
            experiment_folder(config.runs, config.experiment), config.get("ckpt_path")
        )
        self._steps_before, validates_again = 0, False
        if checkpoint is not None and self.subcommand is not None:  # in Python, fit gets its checkpoint as an argument
            self.config_init[self.subcommand]["ckpt_path"] = str(checkpoint)
            content = read_checkpoint(checkpoint, TO_TEST)
            check_weights(checkpoint, content, self.model)
            if self.subcommand == "fit":
                check_encoder_rate(checkpoint, content, self.model)
            self._steps_before, validates_again = content["global_step"], is_unvalidated(content)
        chosen = self._get(self.config_init, "trainer").get("logger")
        loggers = [] if chosen is None or isinstance(chosen, bool) else chosen if isinstance(chosen, list) else [chosen]
        make = self._get(self.config_init, "logger")
        if make is not None:
            loggers.append(make(self.run_folder))
        csv = RunLogger(self.run_folder, self._steps_before, validates_again)
        logger = False if chosen is False else [csv, *loggers]
        settings = self._get(self.config_init, "trainer")
        unwanted = (
            *([ProgressBar] if config.trainer.enable_progress_bar is False else []),
            *([ModelCheckpoint] if config.trainer.enable_checkpointing is False else []),
            *([LearningRateMonitor] if logger is False else []),
            *([] if config.early_stopping else [EarlyStopping]),
        )
        callbacks = settings["callbacks"] or ()
        settings["callbacks"] = [callback for callback in callbacks if not isinstance(callback, unwanted)]
        if config.trainer.enable_model_summary is None:
            kwargs["enable_model_summary"] = False  # before_fit logs the same in a line
        trainer = super().instantiate_trainer(default_root_dir=str(self.run_folder), logger=logger, **kwargs)
        check_strategy(trainer)
        return trainer

    @property
    def _settings(self) -> Namespace:
        """The settings of the command; all settings if there is no command."""
        settings: Namespace = self.config.get(str(self.subcommand), self.config)
        return settings

    def _open_run(self, experiment: Path, ckpt_path: str | None) -> tuple[Path, Path | None]:
        """Return the folder of the run, and the checkpoint that it resumes or tests."""
        kind = str(self.subcommand or "fit")
        checkpoint = starting_checkpoint(ckpt_path, kind, experiment)
        if kind != "fit":
            return shared_run(experiment, kind, self.arguments), checkpoint
        if checkpoint is not None and ckpt_path == "last":
            folder = checkpoint.parents[1]
            os.environ[RUN_FOLDER] = str(folder)
        else:
            folder = shared_run(experiment, "version", self.arguments)
        last = last_checkpoint(folder)
        if last.is_file():  # a job that was requeued, or processes that torchrun started again
            checkpoint = starting_checkpoint(str(last), kind, experiment)
        hold_run(folder)
        remove_leftovers(folder)
        return folder, checkpoint

    def _parse_ckpt_path(self) -> None:
        """Do nothing, to keep the settings of the command line.

        Lightning would replace them by the settings in the checkpoint: ``--model.num_samples 16`` would have no effect.
        """

    def before_test(self) -> None:
        """Refuse test cases from the training set, data that the model was not trained to see, and a lost calibration.

        Raises:
            DataError: The message names the cases, the setting or the missing file.
        """
        check_held_out(self.datamodule, self.test_of.trained, self.test_of.trust, self.test_of.tables)
        path = self._settings.get("ckpt_path")
        if (tested := self.test_of.model) is not None:
            names = ("channels", "regions", "slice_input")
            check_input({name: getattr(tested, name) for name in names}, self.datamodule.info)
        elif path and Path(path).is_file():
            hparams = torch.load(path, map_location="cpu", weights_only=True).get("hyper_parameters", {})
            check_input(hparams, self.datamodule.info)
            if hparams.get("calibration") and self.model.calibration is None:
                calibration = Path(path).parents[1] / "calibration.yaml"
                raise DataError(
                    f"{path} is a calibrated checkpoint; its calibration is not loaded. Add -c {calibration}."
                )

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Pass the model to test to the Trainer, if it is not the model of the configuration."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        return arguments if self.test_of.model is None else arguments | {"model": self.test_of.model}

    def before_fit(self) -> None:
        """Log the model and the data, and load initial weights if ``--pretrained`` names them."""
        denoiser, info = self.model.denoiser, self.datamodule.info
        millions = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
        _log.info("%s with %.1f M parameters, on %s.", denoiser.title, millions, info.title)
        self._initialise()

    def _initialise(self) -> None:
        """Load initial weights from another model, and log its name. A resumed run has its own weights."""
        config = self._settings
        if not config.get("pretrained") or config.get("ckpt_path") or getattr(self, "_steps_before", 0):
            return
        initialisation = initialise_from(self.model, config.pretrained, config.trust)
        if self.trainer.is_global_zero:
            _log.info("%s", initialisation)
            if not config.trainer.fast_dev_run:
                write_initialisation(self.model, self.run_folder)

    def after_fit(self) -> None:
        """Test the best checkpoint (without validation, the last), and print the files of the run."""
        if self._settings.trainer.fast_dev_run:
            return
        if self.trainer.is_global_zero:
            trainer = self._settings.trainer
            say_how_far_it_got(self._steps_before, self.trainer.global_step, self.trainer.max_steps, trainer.max_time)
        tested = self._checkpoint_to_test()
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=tested, weights_only=True, verbose=False)
        self._say_what_was_written()

    def _checkpoint_to_test(self) -> str | None:
        """Return the best checkpoint, else the last one; None (for the present weights) if none was written."""
        savers = [callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        written = [saver for saver in savers if saver.best_model_path]
        best, last = (
            next((saver.best_model_path for saver in written if bool(saver.monitor) is monitored), None)
            for monitored in (True, False)
        )
        if savers and best is None and self.trainer.is_global_zero:
            Console().print("\nThere was no validation, so no checkpoint is the best. The last weights are tested.")
        return best or last

    def after_test(self) -> None:
        """Print the files of the test."""
        if self._settings.trainer.fast_dev_run:
            return
        self._say_what_was_written()

    def _say_what_was_written(self) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbRunLogger):
                logger.finish()
        if self.trainer.is_global_zero:
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            say_what_was_written(self.run_folder, self.model if self.subcommand == "fit" and best else None)
