"""What the console shows of a run: our own messages, and not what says nothing to a user of this project."""

import logging
import os
import re
import warnings

from rich.console import Console
from rich.logging import RichHandler

#: Lightning's messages that say nothing to a user of this project.
_NOISE = re.compile(r"Tip: |TPU available|GPU available: False|Restoring states from|Loaded model weights from")
#: Warnings of things that are meant.
_EXPECTED = (
    ".*LightningCLI's args parameter.*",  # every command passes its arguments on
    ".*does not have many workers.*",  # training images lie in memory or a memory map
    ".*smaller than the logging interval.*",
    ".*dirpath has changed.*",  # an evaluation has a folder of its own, and chooses no checkpoint
    ".*It is recommended to use.*sync_dist.*",  # scores are gathered before they are logged
    ".*`weights_only` was not set.*",  # nothing here is ever unpickled
    ".*LeafSpec.*",  # Lightning's own use of torch
    ".*exists and is not empty.*",  # RunLogger deletes nothing
    ".*checkpoint that ended before the epoch ended.*",  # ExactResume and the sampler go on where it ended
)


def quieten() -> None:
    """Send our log to the console, and leave noise out of it."""
    log = logging.getLogger("diffmedseg")
    if not log.handlers and "LOCAL_RANK" not in os.environ:  # once, by the first process
        log.addHandler(RichHandler(console=Console(stderr=True), show_time=False, show_level=False, show_path=False))
        log.setLevel(logging.INFO)
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if _says_something not in lightning.filters:
        lightning.addFilter(_says_something)
    for expected in _EXPECTED:
        warnings.filterwarnings("ignore", expected)


def _says_something(record: logging.LogRecord) -> bool:
    return not _NOISE.search(record.getMessage())
