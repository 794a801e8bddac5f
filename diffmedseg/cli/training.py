"""Run LightningCLI: ``fit``, ``validate`` and ``test``."""

import os
import signal
import sys
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

import diffmedseg.data
import diffmedseg.models
from diffmedseg.allocator import keep_freed_memory
from diffmedseg.callbacks import ExactResume, StopSafely
from diffmedseg.cli.console import quieten
from diffmedseg.cli.lightning_cli import DiffMedSegCLI, Tested
from diffmedseg.cli.run_arguments import LoggedConfig
from diffmedseg.cli.settings import SettingsParser
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.errors import CheckpointError, DataError, NoRunError, RecipeError, ZooError
from diffmedseg.lazy import import_names
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.runs import (
    RUN_FOLDER,
    release_runs,
)


def run(args: list[str], test: Tested | None = None) -> None:
    """Run a command of LightningCLI.

    Args:
        args: The command line, such as ``["fit", "-c", "config.yaml"]``.
        test: Facts of a test that are not in its configuration.
    """
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
        sys.exit(f"error: {error}")  # the messages name the remedy; a traceback would hide them
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning exits with 0, as if the run were complete
    finally:
        release_runs()
        folder = Path(os.environ.get(RUN_FOLDER, "."))
        if RUN_FOLDER in os.environ:
            for empty in (folder, folder.parent):  # remove the empty folder of a failed start
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()


def build(args: list[str]) -> tuple[DiffusionSegmenter, SegmentationDataModule, Trainer]:
    """Build model, data and Trainer of a configuration; see :meth:`diffmedseg.recipes.Recipe.build`."""
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
        # A test of another model has no stored configuration; metrics.json names the model.
        save_config_callback=LoggedConfig if test is None or test.model is None else None,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [ExactResume(), stop or StopSafely()]},
        parser_kwargs={"description": "Train and test segmenters by configuration files."},
        parser_class=SettingsParser,
        args=args,
        run=run,
        test=test,
    )
