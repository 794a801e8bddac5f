"""LightningCLI over any segmenter and any data module: ``fit``, ``validate`` and ``test``."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

import diffmedseg.data
import diffmedseg.models
from diffmedseg.allocator import keep_freed_memory
from diffmedseg.callbacks import ExactResume, StopSafely
from diffmedseg.callbacks.resume import is_unvalidated
from diffmedseg.checkpoints import TO_TEST, check_weights, read_checkpoint
from diffmedseg.cli.console import quieten
from diffmedseg.cli.precision import fitting_precision
from diffmedseg.cli.run_arguments import LoggedConfig, add_run_arguments, link_facts
from diffmedseg.cli.run_messages import say_how_far_it_got, say_what_was_written
from diffmedseg.cli.settings import SettingsParser
from diffmedseg.configurable import to_config
from diffmedseg.dashboards import WandbRunLogger
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.errors import CheckpointError, DataError, NoRunError, RecipeError, ZooError
from diffmedseg.evaluation.held_out import check_held_out
from diffmedseg.lazy import import_names
from diffmedseg.models.encoders import weights_follow
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.run_log import RunLogger
from diffmedseg.runs import (
    RUN_FOLDER,
    check_strategy,
    experiment_folder,
    hold_run,
    last_checkpoint,
    release_runs,
    remove_leftovers,
    shared_run,
    starting_checkpoint,
)
from diffmedseg.wording import innermost
from diffmedseg.zoo.pretrained import initialise_from, write_initialisation

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tested:
    """What is known of a test beside its configuration.

    Attributes:
        model: What is tested in place of the configuration's model, such as an ensemble; None for the latter.
        trained: By the models' names, the configurations of the data modules that they were trained with.
        trust: Packages besides diffmedseg whose classes these may name.
    """

    model: Segmenter | None = None
    trained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trust: Sequence[str] = ()


class DiffMedSegCLI(LightningCLI):
    """Links what the data knows into the model, gives every run a folder, and tests the best checkpoint after fit."""

    model: DiffusionSegmenter
    datamodule: SegmentationDataModule

    def __init__(self, *args: Any, test: "Tested | None" = None, **kwargs: Any) -> None:
        self.test_of = test or Tested()
        super().__init__(*args, **kwargs)

    @property
    def arguments(self) -> list[str]:
        """The command line, which tells the commands of one job apart."""
        return list(self._arguments) if isinstance(self._arguments, list) else sys.argv[1:]

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Keep the command line."""
        self._arguments = args
        super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer.

        Raises:
            RecipeError: If a class refuses its arguments, with what it said.
        """
        checkpoint = self._starting_checkpoint()
        if checkpoint is not None:
            self._take_normalisation(read_checkpoint(checkpoint, TO_TEST))
        try:
            with contextlib.nullcontext() if checkpoint is None and self.test_of.model is None else weights_follow():
                super().instantiate_classes()
        except ValueError as error:
            raise RecipeError(innermost(str(error))) from error

    def _starting_checkpoint(self) -> Path | None:
        """Return the checkpoint that the command names, whose weights take the place of an encoder's."""
        config = self._settings
        experiment = experiment_folder(config.runs, config.experiment)
        return starting_checkpoint(config.get("ckpt_path"), str(self.subcommand or "fit"), experiment)

    def _take_normalisation(self, checkpoint: Mapping[str, Any]) -> None:
        """Normalise images as the model of a checkpoint does, where the configuration does not say how."""
        stored = checkpoint.get("hyper_parameters", {}).get("denoiser") or {}
        self._settle_normalisation(stored.get("init_args", {}))

    def _settle_normalisation(self, arguments: Mapping[str, Any]) -> None:
        """Write an encoder's normalisation into the configuration, where that does not say it."""
        own = self._settings.model.init_args.get("denoiser")
        for name in ("encoder_mean", "encoder_std"):
            if own is not None and name in own.init_args and own.init_args[name] is None:
                own.init_args[name] = arguments.get(name)

    def _settle_precision(self) -> None:
        """Write the precision that suits this machine into the configuration."""
        trainer = self._settings.trainer
        trainer.precision = fitting_precision(trainer.precision, str(trainer.accelerator), self.arguments)
        self._get(self.config_init, "trainer")["precision"] = trainer.precision

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Name the Trainer's commands; predicting is a command of its own, which needs no data set."""
        return {name: hidden for name, hidden in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's place, and the links."""
        add_run_arguments(parser)
        link_facts(parser)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Give the run its folder; its CSV comes before other loggers, of which one may be made for that folder.

        Raises:
            CheckpointError: If the checkpoint is missing, damaged, or of another model; then no folder is made.
            NoRunError: If there is no run to continue, or the strategy's processes cannot be stopped and continued.
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
        if checkpoint is not None and self.subcommand is not None:  # in Python fit is given its checkpoint
            self.config_init[self.subcommand]["ckpt_path"] = str(checkpoint)
            content = read_checkpoint(checkpoint, TO_TEST)
            check_weights(checkpoint, content, self.model)
            self._steps_before, validates_again = content["global_step"], is_unvalidated(content)
        chosen = self._get(self.config_init, "trainer").get("logger")
        others = [] if chosen is None or isinstance(chosen, bool) else chosen if isinstance(chosen, list) else [chosen]
        make = self._get(self.config_init, "logger")
        if make is not None:
            others.append(make(self.run_folder))
        csv = RunLogger(self.run_folder, self._steps_before, validates_again)
        logger = False if chosen is False else [csv, *others]
        settings = self._get(self.config_init, "trainer")
        unwanted = (
            *([ProgressBar] if config.trainer.enable_progress_bar is False else []),
            *([ModelCheckpoint] if config.trainer.enable_checkpointing is False else []),
            *([LearningRateMonitor] if logger is False else []),
            *([] if config.early_stopping else [EarlyStopping]),
        )
        settings["callbacks"] = [one for one in settings["callbacks"] or () if not isinstance(one, unwanted)]
        if config.trainer.enable_model_summary is None:
            kwargs["enable_model_summary"] = False  # a table of the denoiser alone; a line says as much
        trainer = super().instantiate_trainer(default_root_dir=str(self.run_folder), logger=logger, **kwargs)
        check_strategy(trainer)
        return trainer

    @property
    def _settings(self) -> Namespace:
        """The settings of the command; those of all where there is none."""
        settings: Namespace = self.config.get(str(self.subcommand), self.config)
        return settings

    def _open_run(self, experiment: Path, ckpt_path: str | None) -> tuple[Path, Path | None]:
        """Return the run's folder, and the checkpoint from which it goes on or which it tests."""
        kind = str(self.subcommand or "fit")
        checkpoint = starting_checkpoint(ckpt_path, kind, experiment)
        if kind != "fit":
            return shared_run(experiment, kind, self.arguments), checkpoint
        if checkpoint is not None and ckpt_path == "last":
            folder = checkpoint.parents[1]
            os.environ[RUN_FOLDER] = str(folder)
        else:
            folder = shared_run(experiment, "version", self.arguments)
        own = last_checkpoint(folder)
        if own.is_file():  # a job that was requeued, or processes that torchrun started again
            checkpoint = starting_checkpoint(str(own), kind, experiment)
        hold_run(folder)
        remove_leftovers(folder)
        return folder, checkpoint

    def _parse_ckpt_path(self) -> None:
        """Keep the settings of the command line.

        Lightning would replace them by the checkpoint's, so that ``--model.num_samples 16`` changed nothing. Whoever
        evaluates a checkpoint gives the config of its run, which lies beside it.
        """

    def before_test(self) -> None:
        """Refuse test cases that were trained on, and a calibrated checkpoint with a configuration without calibration.

        Raises:
            DataError: Naming the cases, or the file that is missing.
        """
        check_held_out(self.datamodule, self.test_of.trained, self.test_of.trust)
        path = self._settings.get("ckpt_path")
        if path and Path(path).is_file() and self.model.calibration is None:
            hparams = torch.load(path, map_location="cpu", weights_only=True).get("hyper_parameters", {})
            if hparams.get("calibration"):
                raise DataError(f"{path} is calibrated: add -c {Path(path).parents[1] / 'calibration.yaml'}.")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Test what is tested in place of the configuration's model."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        return arguments if self.test_of.model is None else arguments | {"model": self.test_of.model}

    def before_fit(self) -> None:
        """Say what is trained, and start from the weights of another model where one is named."""
        denoiser, info = self.model.denoiser, self.datamodule.info
        millions = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
        _log.info("%s with %.1f M parameters, on %s.", denoiser.title, millions, info.title)
        self._initialise()

    def _initialise(self) -> None:
        """Start from the weights of another model, and say which; a run that goes on has its own."""
        config = self._settings
        if not config.get("pretrained") or config.get("ckpt_path") or getattr(self, "_steps_before", 0):
            return
        found = initialise_from(self.model, config.pretrained, config.trust)
        if self.trainer.is_global_zero:
            _log.info("%s", found)
            if not config.trainer.fast_dev_run:
                write_initialisation(self.model, self.run_folder)

    def after_fit(self) -> None:
        """Test the best checkpoint, or the last where nothing was validated, and say what was written."""
        if self._settings.trainer.fast_dev_run:
            return
        if self.trainer.is_global_zero:
            trainer = self._settings.trainer
            say_how_far_it_got(self._steps_before, self.trainer.global_step, self.trainer.max_steps, trainer.max_time)
        tested = self._checkpoint_to_test()
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=tested, weights_only=True, verbose=False)
        self._say_what_was_written()

    def _checkpoint_to_test(self) -> str | None:
        """Return the best checkpoint, else the last one; None, for the weights as they are, where none was written."""
        savers = [one for one in self.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
        best, last = (
            next((one.best_model_path for one in savers if one.best_model_path and bool(one.monitor) is chosen), None)
            for chosen in (True, False)
        )
        if savers and best is None and self.trainer.is_global_zero:
            Console().print("\nNothing was validated, so no checkpoint is the best: the last weights are tested.")
        return best or last

    def after_test(self) -> None:
        """Say what was written."""
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


def run(args: list[str], test: Tested | None = None) -> None:
    """Run a command of LightningCLI, such as ``["fit", "-c", "config.yaml"]``; ``test`` says more of a test."""
    keep_freed_memory()
    quieten()
    stop = StopSafely()
    try:
        with stop.listening():
            _cli(args, run=True, stop=stop, test=test)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (CheckpointError, DataError, NoRunError, OSError, ZooError) as error:
        sys.exit(f"error: {error}")  # these say what to do: a traceback would only bury it
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning's has no code: a run that was cut off would count as done
    finally:
        release_runs()
        folder = Path(os.environ.get(RUN_FOLDER, "."))
        if RUN_FOLDER in os.environ:
            for empty in (folder, folder.parent):  # a start that failed takes no number
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()


def build(args: list[str]) -> tuple[DiffusionSegmenter, SegmentationDataModule, Trainer]:
    """Build what a configuration describes, and run nothing; see :meth:`diffmedseg.recipes.Recipe.build`."""
    quieten()
    cli = _cli(args, run=False)
    cli._initialise()
    return cli.model, cli.datamodule, cli.trainer


def _cli(args: list[str], run: bool, stop: StopSafely | None = None, test: Tested | None = None) -> DiffMedSegCLI:
    for package in (diffmedseg.data, diffmedseg.models):
        import_names(package)  # makes the classes known by their short names
    return DiffMedSegCLI(
        DiffusionSegmenter,
        SegmentationDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        # The configuration's model is not the one that is tested: metrics.json names that.
        save_config_callback=LoggedConfig if test is None or test.model is None else None,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [ExactResume(), stop or StopSafely()]},
        parser_kwargs={"description": "Train and test segmenters by configuration files."},
        parser_class=SettingsParser,
        args=args,
        run=run,
        test=test,
    )
