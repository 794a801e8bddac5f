"""A callback in a module of its own that has a run signalled."""

SIGNAL_AT = """
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
