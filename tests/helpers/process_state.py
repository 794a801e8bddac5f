"""What a test may find of the user and of earlier tests: nothing."""

import contextlib
import logging
import os
import random
import sys
from collections.abc import Iterator
from unittest import mock

# Settings of the user, of a scheduler or of a terminal that change what the tests see.
_FOREIGN = ("DIFFMEDSEG_", "WANDB_", "SLURM_", "TORCHELASTIC_", "PL_", "MASTER_", "TTY_")
_FOREIGN_NAMES = {"FORCE_COLOR", "NO_COLOR", "LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MAKEFLAGS", "MAKELEVEL"}
_OF_THE_SUITE = {"DIFFMEDSEG_DATA", "DIFFMEDSEG_TEST_ORDER"}
_SET = {
    "OMP_NUM_THREADS": "1",  # tensors are small; processes of a test must not fight over cores
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",  # who is logged in logs nothing there; tests of W&B are offline
    "WANDB_ERROR_REPORTING": "false",
    "COLUMNS": "80",  # messages break alike in every terminal
}


def forget_the_user() -> None:
    """Set the environment that all tests start from; once, before torch is imported, which reads it then."""
    for name in set(os.environ) - _OF_THE_SUITE:
        if name.startswith(_FOREIGN) or name in _FOREIGN_NAMES:
            del os.environ[name]
    os.environ.update(_SET)


@contextlib.contextmanager
def kept_process_state() -> Iterator[None]:
    """Start with known random numbers; undo what the project changes in its process."""
    import numpy as np
    import torch

    torch.set_num_threads(1)  # a process that has computed with more hangs after a fork
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries draw from it
    torch.manual_seed(0)
    log = logging.getLogger("diffmedseg")
    handlers, level = log.handlers[:], log.level
    try:
        with mock.patch.dict(os.environ):
            yield
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)
        if wandb := sys.modules.get("wandb"):
            wandb.finish()  # Lightning's logger takes a run that is under way for its own
