"""Console output of a run: messages of this project, without irrelevant messages and warnings of libraries."""

import logging
import os
import re
import warnings

from rich.console import Console
from rich.logging import RichHandler

#: Messages of Lightning that are irrelevant to users of this project.
_NOISE = re.compile(r"Tip: |TPU available|GPU available: False|Restoring states from|Loaded model weights from")
#: Warnings about behaviour that is intended.
_EXPECTED = (
    ".*LightningCLI's args parameter.*",  # every command passes its arguments on
    ".*does not have many workers.*",  # training images are in memory or a memory map
    ".*smaller than the logging interval.*",
    ".*dirpath has changed.*",  # an evaluation has its own folder, and chooses no checkpoint
    ".*It is recommended to use.*sync_dist.*",  # scores are gathered before they are logged
    r".*module\(s\) in eval mode at the start of training.*",  # frozen layers
    ".*`weights_only` was not set.*",  # this project never unpickles a file
    ".*LeafSpec.*",  # Lightning's own use of torch
    ".*exists and is not empty.*",  # RunLogger deletes nothing
    ".*checkpoint that ended before the epoch ended.*",  # ExactResume and the sampler resume within an epoch
)


def quieten() -> None:
    """Send this project's log to the console, and hide irrelevant messages and warnings."""
    log = logging.getLogger("diffmedseg")
    if not log.handlers and "LOCAL_RANK" not in os.environ:  # once, by the first process
        log.addHandler(RichHandler(console=Console(stderr=True), show_time=False, show_level=False, show_path=False))
        log.setLevel(logging.INFO)
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if _is_relevant not in lightning.filters:
        lightning.addFilter(_is_relevant)
    for expected in _EXPECTED:
        warnings.filterwarnings("ignore", expected)


def _is_relevant(record: logging.LogRecord) -> bool:
    return not _NOISE.search(record.getMessage())
