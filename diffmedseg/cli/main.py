"""The table of commands. A command is imported when it is called, so that ``--help`` is fast."""

import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from diffmedseg.errors import unknown


@dataclass(frozen=True)
class Command:
    """A command of ``diffmedseg``.

    Attributes:
        target: Module and function that run the command, as ``module:function``; the function takes the arguments.
        summary: Purpose of the command, in a line.
        listed: Whether ``--help`` lists it with the everyday commands.
    """

    target: str
    summary: str
    listed: bool = True


COMMANDS = {
    "train": Command("train:train", "Train a model on a data set, then test its best checkpoint."),
    "evaluate": Command("train:evaluate", "Test a run or a checkpoint, with other settings or data."),
    "predict": Command("predict:main", "Segment pictures or volumes with a run, a checkpoint or a zoo entry."),
    "app": Command("app:main", "Segment, view, compare and correct in a browser, on this machine."),
    "serve": Command("serve:main", "Segment pictures and volumes over HTTP."),
    "pseudo": Command("pseudo:main", "Write pseudo masks for a student, from a model or a rule without masks."),
    "calibrate": Command("scoring:calibrate", "Fit a run's probabilities and contours to its validation cases."),
    "score": Command("scoring:score", "Score a folder of masks against a folder of reference masks."),
    "compare": Command("comparing:compare", "Compare tests of the same cases, with intervals; pool seeds and folds."),
    "benchmark": Command("benchmark:main", "Score samples of any method against several raters by a fixed protocol."),
    "windows": Command(
        "predict:windows", "Find the window of each picture for a second model, such as the optic disc."
    ),
    "data": Command("data:main", "Inspect data sets: list, check, preview, manage the cache."),
    "zoo": Command("zoo:main", "List, show, verify, draw and reproduce pretrained models."),
    "export": Command("exporting:export", "Make a zoo entry of a finished run, or ONNX graphs of a model."),
    "dashboard": Command("dashboard:main", "Build the W&B workspace for logged runs."),
    "info": Command("info:main", "Show versions, models, data sets, presets, entries and devices."),
    "fit": Command("training:run", "Train by LightningCLI configuration files: fit -c FILE.", listed=False),
    "validate": Command("training:run", "Validate by LightningCLI configuration files.", listed=False),
    "test": Command("training:run", "Test by LightningCLI configuration files: test -c FILE.", listed=False),
}


def overview() -> str:
    """Return the text of ``--help``."""
    listed, unlisted = (
        [(name, command) for name, command in COMMANDS.items() if command.listed is kind] for kind in (True, False)
    )
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in listed)
    below = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in unlisted)
    return (
        "usage: diffmedseg [--help] [--version] COMMAND ...\n\n"
        "Diffusion-based medical image segmentation: train, test, predict. Not for diagnosis.\n\n"
        f"commands (each with --help):\n{lines}\n\n"
        f"LightningCLI, for your own configuration files:\n{below}\n\n"
        "Start with:  diffmedseg train      (trains medsegdiff-lite on synthetic lesions; no download)"
    )


def _escape_what_cannot_be_printed() -> None:
    """Print escapes for characters that a console or pipe cannot encode, so that printing never fails."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None for the arguments of the process.
    """
    _escape_what_cannot_be_printed()
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(overview())
        return
    name = arguments[0]
    if name == "--version":
        from diffmedseg import __version__

        print(f"diffmedseg {__version__}")
        return
    if name not in COMMANDS:
        print(f"error: {unknown('command', name, list(COMMANDS))} `diffmedseg --help` lists them.", file=sys.stderr)
        sys.exit(2)
    module, function = COMMANDS[name].target.split(":")
    run = getattr(import_module(f"diffmedseg.cli.{module}"), function)
    try:
        run(arguments if module == "training" else arguments[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
