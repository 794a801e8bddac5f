"""Stop a run by a signal, so that it can resume."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint

from diffmedseg.callbacks.resume import come_last
from diffmedseg.runs import slurm_job

_log = logging.getLogger(__name__)


class RunStopped(SystemExit):
    """A signal stopped the run. The process exits with 128 and the signal's number: 130 (Ctrl-C), 143 (SIGTERM).

    Args:
        signum: The signal.
        can_save: Whether the run is between two steps, so that a checkpoint is complete.
    """

    def __init__(self, signum: int, can_save: bool = False) -> None:
        super().__init__(128 + signum)
        self.signum, self.can_save = signal.Signals(signum), can_save


class StopSafely(Callback):
    """Ends a run after a signal without losing a step.

    In training, SIGTERM and Ctrl-C (SIGINT) finish the step or the validation batch, write ``last.ckpt`` and exit. A
    second Ctrl-C exits at once, without a checkpoint. Outside of training there is nothing to save, and the process
    exits at once. In a SLURM job, SIGUSR1 does the same as SIGTERM and requeues the job.

    Several processes agree on the step, and finish a running validation first. Since a scheduler may not wait for it,
    they also write ``last.ckpt`` before each validation.

    The handlers replace Lightning's, which do not end a validation or a test.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._is_training = False
        self._process = os.getpid()
        self._trainer: Trainer | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals within this context, also before and after a Trainer; then restore the handlers.

        After a signal the context always ends with RunStopped: a library may swallow the exception of a handler, and
        continue or raise another one.
        """
        signals = signal.SIGINT, signal.SIGTERM
        previous = {signum: signal.getsignal(signum) for signum in signals}
        self._listen(*signals)
        try:
            yield
        except Exception as error:
            if self._asked is None:
                raise
            raise RunStopped(self._asked) from error
        else:
            if self._asked is not None:
                raise RunStopped(self._asked)
        finally:
            if threading.current_thread() is threading.main_thread():
                for signum, handler in previous.items():
                    signal.signal(signum, handler)

    def _listen(self, *signals: int) -> None:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # Python handles signals only there
            for signum in signals:
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that loads data; its parent ends it
        is_second, self._asked = self._asked is not None, self._asked or signum
        if signum == signal.SIGTERM and not is_second and self._trainer is not None:
            kill = getattr(self._trainer.strategy.launcher, "kill", None)
            if kill is not None:
                kill(signum)  # only this process reaches Lightning's processes
        if not self._is_training or (is_second and signum == signal.SIGINT):
            self._is_training = False
            raise RunStopped(signum)
        if not is_second:
            again = " Ctrl-C again stops at once." if signum == signal.SIGINT else ""
            # Not print: the handler may interrupt another print.
            os.write(2, f"\nStopping after this step, with a checkpoint.{again}\n".encode())

    def _take_over(self, trainer: Trainer) -> None:
        """Replace the handlers that Lightning set before this hook. Lightning restores them at the end."""
        self._trainer = trainer
        requeue = _requeue_signal(trainer)
        self._listen(signal.SIGINT, signal.SIGTERM, *([] if requeue is None else [requeue]))

    def _stop_if_asked(self, trainer: Trainer, can_save: bool = True) -> None:
        asked = self._asked is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            raise RunStopped(self._asked or signal.SIGTERM, can_save)

    # Points where a run can stop.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move to the end of the callbacks, so that a checkpoint has the work of all others."""
        come_last(trainer, self)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals."""
        self._take_over(trainer)

    on_test_start = on_predict_start = on_sanity_check_start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals; from here on, steps are finished first."""
        self._take_over(trainer)
        self._is_training = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        self._stop_if_asked(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Stop between two optimiser steps, so that no accumulated gradients are lost."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation."""
        if not self._is_training:
            self._take_over(trainer)
            return
        self._stop_if_asked(trainer)
        if trainer.world_size > 1:
            _save(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop within a validation. Several processes have different batches and cannot agree, so they do not stop."""
        if self._is_training and trainer.world_size == 1:
            self._stop_if_asked(trainer)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop within a test, if a library swallowed the exception of the handler."""
        if self._asked is not None:
            raise RunStopped(self._asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after training, before the test starts. Everything is saved."""
        self._stop_if_asked(trainer, can_save=False)
        self._is_training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save a checkpoint, and requeue a SLURM job."""
        self._is_training = False
        if not isinstance(exception, RunStopped):
            return
        if exception.can_save:
            _save(trainer)
            _log.info("Stopped by %s after step %d; last.ckpt is saved.", exception.signum.name, trainer.global_step)
        if trainer.is_global_zero and exception.signum == _requeue_signal(trainer):
            _requeue()


def _save(trainer: Trainer) -> None:
    """Write ``last.ckpt`` to the folder of checkpoints."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning, not declared
        return
    savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    savers = [saver for saver in savers if saver.dirpath]
    folder = Path(str(savers[0].dirpath)) if savers else Path(trainer.default_root_dir) / "checkpoints"
    trainer.save_checkpoint(folder / "last.ckpt")


def _requeue_signal(trainer: Trainer) -> int | None:
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal
    return None


def _requeue() -> None:
    """Ask SLURM to start the job again."""
    command = ["scontrol", "requeue", slurm_job()]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        _log.warning("The job is not requeued (%s). Submit it again by hand, with --ckpt_path last to resume.", error)
