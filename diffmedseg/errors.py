"""The errors that say what a user can do; the command line prints their message without a traceback."""

from collections.abc import Iterable


class DataError(RuntimeError):
    """Data that is missing, unpaired or unreadable; the message says what was found and what to do.

    Args:
        message: The message.
        names: All items that it is about, of which the message may name the first.
    """

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = sorted(names)


class NoRunError(RuntimeError):
    """There is no run to continue."""


class RecipeError(ValueError):
    """A run that cannot be composed; the message says what was found and what to do."""


class ZooError(RuntimeError):
    """An entry that is missing, damaged or not to be trusted; the message says which and what to do."""
