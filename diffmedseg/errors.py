"""Errors that a user can act on. The command line prints their message without a traceback."""

import difflib
from collections.abc import Iterable, Sequence


class CheckpointError(RuntimeError):
    """A checkpoint is missing or unusable; the message says why."""


class DataError(RuntimeError):
    """Data that is missing, unpaired or unreadable; the message says what was found and what to do.

    Args:
        message: The message.
        names: Names of all items concerned; the message may name only the first.
    """

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = sorted(names)


class ExportError(ValueError):
    """A model that cannot be exported, or an exported file that is unusable; the message says why."""


class NoRunError(RuntimeError):
    """There is no run to continue, or no folder for one."""


class PluginError(RuntimeError):
    """A class that is not trusted or cannot be loaded; the message says why and what to do."""


class RecipeError(ValueError):
    """A run that cannot be composed; the message says what was found and what to do."""


class TooFewCasesError(ValueError):
    """There are too few cases for a fit; the message says how many are needed."""


class ZooError(RuntimeError):
    """An entry that is missing, damaged or not trusted; the message names it and the remedy."""


def unknown(kind: str, name: str, names: Sequence[str]) -> str:
    """Return the message for an unknown name, with similar names."""
    return f"There is no {kind} {name!r}. {suggest(name, names)}"


def suggest(name: str, names: Sequence[str]) -> str:
    """Return a suggestion of similar names; without similar names, list all names."""
    alike = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    if alike:
        return f"Did you mean {' or '.join(alike)}?"
    listed = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])} and {len(names) - 12} more"
    return f"There are: {listed or 'none'}."
