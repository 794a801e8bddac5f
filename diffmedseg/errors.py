"""The errors that say what a user can do; the command line prints their message without a traceback."""

import difflib
from collections.abc import Iterable, Sequence


class CheckpointError(RuntimeError):
    """A checkpoint is missing, or cannot be used; the message says why."""


class DataError(RuntimeError):
    """Data that is missing, unpaired or unreadable; the message says what was found and what to do.

    Args:
        message: The message.
        names: All items that it is about, of which the message may name the first.
    """

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = sorted(names)


class ExportError(ValueError):
    """A model that cannot become a graph, or an exported file that cannot be used; the message says why."""


class NoRunError(RuntimeError):
    """There is no run to continue, or no folder for one."""


class PluginError(RuntimeError):
    """A class that may not be loaded, or cannot be; the message says why and what to do."""


class RecipeError(ValueError):
    """A run that cannot be composed; the message says what was found and what to do."""


class TooFewCasesError(ValueError):
    """There are too few cases to fit to; the message says how many are needed."""


class ZooError(RuntimeError):
    """An entry that is missing, damaged or not to be trusted; the message says which and what to do."""


def unknown(kind: str, name: str, names: Sequence[str]) -> str:
    """Say that a name is not known, and what may have been meant."""
    return f"There is no {kind} {name!r}. {suggest(name, names)}"


def suggest(name: str, names: Sequence[str]) -> str:
    """Say which of the names may have been meant; where none is alike, which there are."""
    alike = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    if alike:
        return f"Did you mean {' or '.join(alike)}?"
    some = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])} and {len(names) - 12} more"
    return f"There are: {some or 'none'}."
