"""Parser, argument types and options that all commands share."""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from diffmedseg.errors import CheckpointError, DataError, NoRunError, PluginError, ZooError, unknown


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and suggests similar names.

    Args:
        command: The command, such as ``diffmedseg zoo``.
        description: Purpose of the command.
        settings: Further settings of argparse's parser.
    """

    def __init__(self, command: str | None = None, description: str | None = None, **settings: Any) -> None:
        settings = {"prog": command, "allow_abbrev": False} | settings
        super().__init__(description=description, **settings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401  argparse's signature
        if action.choices is not None and value not in action.choices:
            kind = "command" if isinstance(action, argparse._SubParsersAction) else action.dest
            self.error(unknown(kind, str(value), list(map(str, action.choices))))


def file_ending(ending: str) -> Callable[[str], Path]:
    """Return an argument type for paths that end in ``ending``, such as ``.png``."""

    def read(text: str) -> Path:
        if not text.lower().endswith(ending):
            raise argparse.ArgumentTypeError(f"{text} does not end in {ending}")
        return Path(text)

    return read


def positive_integer(text: str) -> int:
    """Read a whole number of at least 1."""
    return _whole_number(text, 1)


def natural_number(text: str) -> int:
    """Read a whole number of at least 0."""
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return number


def setting_pairs(settings: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield names and values of settings ``--name value`` and ``--name=value``; None for a missing value."""
    waiting = iter(settings)
    for setting in waiting:
        name, equals, value = setting.partition("=")
        yield name, value if equals else next(waiting, None)


def open_share(text: str) -> float:
    """Read a number between 0 and 1."""
    number = any_number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return number


def names(text: str) -> tuple[str, ...]:
    """Split names at commas."""
    return tuple(text.split(","))


def any_number(text: str) -> float:
    """Read a number; return NaN for other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="Your own package whose classes may be imported. Can be repeated.",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, mps, ... Default: the first of cuda, mps and cpu that is available.",
    )


def add_host(parser: argparse.ArgumentParser, warning: str) -> None:
    """Add ``--host``.

    Args:
        parser: The parser.
        warning: Warning about addresses that other machines can reach.
    """
    parser.add_argument(
        "--host", default="127.0.0.1", help=f"Address to listen at. Default: 127.0.0.1, only this machine. {warning}"
    )


def keep_inputs_private() -> None:
    """Log no names of inputs, because files of other people are private."""
    logging.getLogger("diffmedseg.prediction").setLevel(logging.CRITICAL)


def add_tta(parser: argparse.ArgumentParser) -> None:
    """Add ``--tta``."""
    parser.add_argument(
        "--tta",
        choices=("none", "flips"),
        help="Test-time augmentation. flips divides the samples between four views of each image: unchanged, flipped "
        "left-right, flipped up-down, and flipped both ways. Default: the model's setting.",
    )


def add_smallest(parser: argparse.ArgumentParser) -> None:
    """Add the option that drops small parts of masks."""
    parser.add_argument(
        "--smallest",
        type=_voxels,
        action="append",
        default=[],
        metavar="REGION=VOXELS",
        help="Volumes: drop parts of a region's mask with fewer voxels, such as enhancing_tumour=50. The voxels stay "
        "in the regions around it. Can be repeated.",
    )


def _voxels(text: str) -> tuple[str, int]:
    region, _, number = text.partition("=")
    if not (region and number.isascii() and number.isdigit() and int(number) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not REGION=VOXELS with at least 1 voxel")
    return region, int(number)


def refuse(reason: object) -> NoReturn:
    """Print an error and exit with code 1."""
    sys.exit(f"error: {reason}")


@contextmanager
def report_errors() -> Iterator[None]:
    """Print errors that a user can act on in a line, and exit with code 1."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (CheckpointError, DataError, NoRunError, PluginError, ZooError, OSError, ValueError) as error:
        refuse(error)
