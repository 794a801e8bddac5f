"""Resume a run exactly where it stopped."""

import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn

from diffmedseg.checkpoints import WholeFileIO
from diffmedseg.keyed_random import keyed_generator

_KEY = "exact_resume"


class ExactResume(Callback):
    """Resumes a run from any checkpoint so that it ends as if it had never stopped.

    Lightning stores its progress counters at the moment of saving, and resumes differently from different moments: it
    may skip a validation, end an epoch twice, or count a step too many. This callback stores one of three positions
    that resume exactly: between two epochs, within an epoch, or before a validation.

    If ``max_steps`` or ``max_time`` ends a run in the middle of an epoch, the last weights are validated. A longer run
    has no validation there. So when the run resumes, that validation is undone: early stopping does not count it, and
    the previous best checkpoint is restored.

    PyTorch's global generator is seeded before each batch, by the seed of ``seed_everything`` and the number of the
    batch, so that dropout does not depend on where a run stopped.

    Checkpoints are written completely or not at all (:class:`~diffmedseg.checkpoints.WholeFileIO`).
    """

    def __init__(self) -> None:
        self._validated = 0  # number of training batches before the last complete validation
        self._before: dict[str, Any] = {}  # states of callbacks before a validation that a longer run does not have
        self._loaded: dict[str, Any] | None = None
        self._limits: tuple[int, Any] | None = None  # limits to restore after a missed validation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move to the end of the callbacks, since this callback reads the states of the others."""
        come_last(trainer, self)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        self._loaded = self._limits = None

    # Saving.

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the position."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for logger in trainer.loggers:
            logger.save()  # the resumed run does not log these steps again
        epochs, batches = self._position(trainer)
        unvalidated = self._is_unvalidated(trainer, batches)
        planned = _is_planned(trainer, batches)
        loops = checkpoint["loops"]["fit_loop"]
        loops["epoch_progress"] = _progress(epochs + (batches > 0), epochs)
        total = _batch_progress(trainer).total.processed
        loops["epoch_loop.batch_progress"] = {
            "total": _counts(total, total),
            "current": _counts(batches, batches),
            "is_last_batch": batches >= trainer.num_training_batches,
        }
        _owe_validation(loops, unvalidated and planned)
        # Lightning counts the step once more when it validates, or skips the validation.
        again = planned and _validates_in_this_epoch(trainer)
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - again
        stopped_within_epoch = batches > 0 and not planned
        checkpoint[_KEY] = {"unvalidated": unvalidated, "before": self._before if stopped_within_epoch else {}}

    def _position(self, trainer: Trainer) -> tuple[int, int]:
        """Return the number of complete epochs, and of batches after them."""
        progress: Any = trainer.fit_loop.epoch_progress.current
        batches = _batch_progress(trainer).current.processed
        is_whole, is_ended = batches >= trainer.num_training_batches, progress.processed == progress.started
        if is_ended and (is_whole or not batches):
            return progress.processed, 0
        if is_ended:  # max_steps or max_time ended the epoch
            return progress.processed - 1, batches
        if is_whole and not self._is_unvalidated(trainer, batches):
            return progress.processed + 1, 0
        return progress.processed, batches

    def _is_unvalidated(self, trainer: Trainer, batches: int) -> bool:
        seen = _batch_progress(trainer).total.processed
        return batches > 0 and self._validated != seen and _validates_in_this_epoch(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the states of the callbacks, if a longer run would not validate here."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self._limits is not None:
            self._restore_limits(trainer)
            trainer.should_stop = True
        self._before = {}
        if not _is_planned(trainer, _batch_progress(trainer).current.processed):
            for callback in _choosing_callbacks(trainer):
                self._before[callback.state_key] = deepcopy(callback.state_dict())
                if isinstance(callback, ModelCheckpoint) and trainer.is_global_zero and callback.best_model_path:
                    _back_up(Path(callback.best_model_path))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that these weights are validated."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = _batch_progress(trainer).total.processed

    # Resuming.

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the patience of the configuration. Lightning would take the patience of the checkpoint."""
        if trainer.state.fn != TrainerFn.FITTING or _KEY not in checkpoint:
            return
        self._loaded = checkpoint
        if not checkpoint[_KEY]["unvalidated"]:
            self._validated = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
        for callback in _choosing_callbacks(trainer):
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether the run resumes or is finished. If finished, its last weights may still need a validation."""
        if self._loaded is None:
            return
        checkpoint, self._loaded = self._loaded, None
        loop, step = trainer.fit_loop.epoch_loop, checkpoint["global_step"]
        trainer.should_stop |= any(_has_stopped(callback) for callback in _choosing_callbacks(trainer))
        if not (trainer.should_stop or 0 <= loop.max_steps <= step):
            self._forget_last_validation(trainer, checkpoint[_KEY]["before"])
        elif checkpoint[_KEY]["unvalidated"]:
            loops = checkpoint["loops"]["fit_loop"]  # which Lightning reads next
            _owe_validation(loops, True)
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1
            self._limits = loop.max_steps, None
            loop.max_steps = loop.max_steps if loop.max_steps == -1 else step + 1
            trainer.should_stop = False

    def _forget_last_validation(self, trainer: Trainer, before: dict[str, Any]) -> None:
        for callback in _choosing_callbacks(trainer):
            if callback.state_key not in before:
                continue
            callback.load_state_dict(before[callback.state_key])
            if isinstance(callback, ModelCheckpoint) and trainer.is_global_zero and callback.best_model_path:
                best = Path(callback.best_model_path)
                if best.parent == Path(str(callback.dirpath)) and _backup_path(best).is_file():
                    os.replace(_backup_path(best), best)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an epoch as usual, or run a missed validation."""
        loop = trainer.fit_loop.epoch_loop
        if self._limits is not None and _validates_in_this_epoch(trainer):
            self._limits = self._limits[0], trainer.val_check_batch
            trainer.val_check_batch = 1  # validate after this batch
        elif self._limits is not None:
            self._restore_limits(trainer)
        elif loop.restarting and not loop.batch_progress.current.ready:
            loop.restarting = False  # otherwise Lightning looks for the validation of the previous epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Seed PyTorch's global generator."""
        key = (
            os.environ.get("PL_GLOBAL_SEED", 0),
            "batch",
            _batch_progress(trainer).total.processed,
            trainer.global_rank,
        )
        torch.manual_seed(keyed_generator(*key).initial_seed())

    def _restore_limits(self, trainer: Trainer) -> None:
        assert self._limits is not None
        trainer.fit_loop.epoch_loop.max_steps, interval = self._limits
        trainer.val_check_batch = trainer.val_check_batch if interval is None else interval
        self._limits = None


def is_unvalidated(checkpoint: dict[str, Any]) -> bool:
    """Return whether a checkpoint was written before its validation was complete."""
    return bool(checkpoint.get(_KEY, {}).get("unvalidated"))


def come_last(trainer: Trainer, callback: Callback) -> None:
    """Move a callback to the end. The list is new, since Lightning iterates over the old one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, not declared
    trainer.callbacks = [*(other for other in callbacks if other is not callback), callback]  # type: ignore[attr-defined]


def _batch_progress(trainer: Trainer) -> Any:  # noqa: ANN401  private to Lightning
    return trainer.fit_loop.epoch_loop.batch_progress


def _is_planned(trainer: Trainer, batches: int) -> bool:
    """Return whether a validation follows after ``batches`` batches of an epoch, in a run of any length."""
    every = trainer.val_check_batch
    regular = isinstance(every, int) and every > 0 and batches % every == 0
    return batches > 0 and (batches >= trainer.num_training_batches or regular)


def _validates_in_this_epoch(trainer: Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop._should_check_val_epoch())


def _counts(started: int, done: int) -> dict[str, int]:
    return {"ready": started, "started": started, "processed": done, "completed": done}


def _progress(started: int, done: int) -> dict[str, Any]:
    return {"total": _counts(started, done), "current": _counts(started, done)}


def _owe_validation(loops: dict[str, Any], is_owed: bool) -> None:
    """Make Lightning validate from the start, or not. It takes a started batch for an unfinished validation."""
    loops["epoch_loop.val_loop.batch_progress"] = {
        "total": _counts(int(is_owed), 0),
        "current": _counts(0, 0),
        "is_last_batch": False,
    }


def _choosing_callbacks(trainer: Trainer) -> list[EarlyStopping | ModelCheckpoint]:
    """Return the callbacks whose choices depend on validation."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, not declared
    return [callback for callback in callbacks if isinstance(callback, EarlyStopping | ModelCheckpoint)]


def _has_stopped(callback: Callback) -> bool:
    if not isinstance(callback, EarlyStopping):
        return False
    if callback.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return callback.wait_count >= callback.patience  # the patience may have been raised
    return callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED


def _backup_path(best: Path) -> Path:
    return best.with_name(f"{best.name}.before")


def _back_up(best: Path) -> None:
    """Keep a checkpoint under another name."""
    if not best.is_file():
        return
    _backup_path(best).unlink(missing_ok=True)
    try:
        os.link(best, _backup_path(best))
    except OSError:  # a file system without links
        shutil.copyfile(best, _backup_path(best))
