"""Stopping a run by a signal, so that it can go on."""

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
        can_save: Whether the run is between two steps, so that a checkpoint holds all of it.
    """

    def __init__(self, signum: int, can_save: bool = False) -> None:
        super().__init__(128 + signum)
        self.signum, self.can_save = signal.Signals(signum), can_save


class StopSafely(Callback):
    """Ends a run by a signal in a way that loses no step.

    While training, SIGTERM and Ctrl-C (SIGINT) let the step or the validation batch end, write ``last.ckpt`` and leave.
    A second Ctrl-C leaves at once, without a checkpoint. Outside training there is nothing to save, and the process
    leaves at once. In a SLURM job SIGUSR1 does the same as SIGTERM and has the job requeued.

    Several processes agree on the step; a validation is then finished first. Since that may take longer than a
    scheduler waits, they write ``last.ckpt`` before each validation, too.

    It takes the place of Lightning's own handlers, which do not end a validation or a test.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._is_training = False
        self._process = os.getpid()
        self._trainer: Trainer | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals from here on, before there is a Trainer and after it; then give them back.

        Whatever ended the code within, a process that was asked to stop leaves by RunStopped: an exception that a
        handler raises can be lost in a library, which goes on or raises another.
        """
        own = signal.SIGINT, signal.SIGTERM
        previous = {signum: signal.getsignal(signum) for signum in own}
        self._listen(*own)
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
        if threading.current_thread() is threading.main_thread():  # Python hears signals nowhere else
            for signum in signals:
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a process that loads data: its parent ends it
        is_second, self._asked = self._asked is not None, self._asked or signum
        if signum == signal.SIGTERM and not is_second and self._trainer is not None:
            kill = getattr(self._trainer.strategy.launcher, "kill", None)
            if kill is not None:
                kill(signum)  # Lightning's processes are not told by others
        if not self._is_training or (is_second and signum == signal.SIGINT):
            self._is_training = False
            raise RunStopped(signum)
        if not is_second:
            again = " Ctrl-C again stops at once." if signum == signal.SIGINT else ""
            # Not print: a handler may interrupt one.
            os.write(2, f"\nStopping after this step, with a checkpoint.{again}\n".encode())

    def _take_over(self, trainer: Trainer) -> None:
        """Take the place of the handlers that Lightning has set before this hook, and sets back at the end."""
        self._trainer = trainer
        requeue = _requeue_signal(trainer)
        self._listen(signal.SIGINT, signal.SIGTERM, *([] if requeue is None else [requeue]))

    def _stop_if_asked(self, trainer: Trainer, can_save: bool = True) -> None:
        asked = self._asked is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            raise RunStopped(self._asked or signal.SIGTERM, can_save)

    # Where a run can stop.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after all other callbacks: what they do in a hook is part of the checkpoint."""
        come_last(trainer, self)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._take_over(trainer)

    on_test_start = on_predict_start = on_sanity_check_start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on let steps end."""
        self._take_over(trainer)
        self._is_training = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        self._stop_if_asked(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Stop between two steps; gradients that are being accumulated would be lost."""
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
        """Stop within a validation; of several processes each has batches of its own, and they cannot agree."""
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
        """Stop within a test, if the handler's exception was lost."""
        if self._asked is not None:
            raise RunStopped(self._asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at the end: all is saved, but what would follow does not start."""
        self._stop_if_asked(trainer, can_save=False)
        self._is_training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save and, in a SLURM job, requeue."""
        self._is_training = False
        if not isinstance(exception, RunStopped):
            return
        if exception.can_save:
            _save(trainer)
            _log.info("Stopped by %s after step %d; last.ckpt holds it.", exception.signum.name, trainer.global_step)
        if trainer.is_global_zero and exception.signum == _requeue_signal(trainer):
            _requeue()


def _save(trainer: Trainer) -> None:
    """Write ``last.ckpt`` where the run has its checkpoints."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning, not declared
        return
    savers = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.dirpath]
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
        _log.warning("The job is not requeued (%s). Submit it again by hand: --ckpt_path last goes on.", error)
