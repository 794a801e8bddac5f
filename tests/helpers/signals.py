"""Runs that are signalled, go on, and have to end as one that was not."""

import csv
import signal
from pathlib import Path

import torch

_SIGNAL_AT = """
import os
from lightning import Callback


class SignalAt(Callback):
    '''Sends a signal to its own process, as a scheduler does.'''

    def __init__(self, signum: int, step: int, rank: int = 0) -> None:
        self.signum, self.step, self.rank = signum, step, rank

    def on_before_backward(self, trainer, pl_module, loss):
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), self.signum)

    def on_test_start(self, trainer, pl_module):
        if self.step == -1:
            os.kill(os.getpid(), self.signum)
"""

#: Settings of a run of two epochs of three steps, which can be stopped within.
LONGER = ["--trainer.max_steps=6", "--data.steps_per_epoch=3"]


def write_signal_at(folder: Path) -> None:
    """Write the module that :func:`signal_settings` names; the folder has to be on the path."""
    (folder / "signal_at.py").write_text(_SIGNAL_AT)


def signal_settings(signum: signal.Signals, step: int, rank: int = 0) -> list[str]:
    """Return settings that have a run signalled in a training step, or in a test where ``step`` is -1."""
    init = [f"signum={int(signum)}", f"step={step}", f"rank={rank}"]
    added = "--trainer.callbacks+=signal_at.SignalAt"
    return [added, *(f"--trainer.callbacks.init_args.{one}" for one in init)]


def assert_same_weights(a: Path, b: Path) -> None:
    """Compare the checkpoints of two runs bit for bit, and the steps that they logged."""
    for name in ("last", "best"):
        one, two = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (a, b))
        assert one["global_step"] == two["global_step"]
        for key in ("state_dict", "current_model_state"):
            assert all(torch.equal(one[key][weight], two[key][weight]) for weight in one[key])
    steps = [[row["step"] for row in csv.DictReader((run / "metrics.csv").open())] for run in (a, b)]
    assert steps[0] == steps[1]
