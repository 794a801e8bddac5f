"""Messages at the end of a run."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from diffmedseg.models.segmenter import DiffusionSegmenter


def say_how_far_it_got(before: int, steps: int, wanted: int, limit: Any) -> None:  # noqa: ANN401
    """Print a message if training took fewer steps than ``max_steps``.

    Args:
        before: Steps of the run before it resumed.
        steps: Steps of the run now.
        wanted: ``max_steps``.
        limit: ``max_time``; None for no limit.
    """
    if steps == before:
        Console().print(
            f"\nNothing was trained: at {steps} steps the run had already reached max_steps or max_time, or early "
            "stopping had ended it. All three count from the first start of the run. Raise the limit that ended it, "
            "for example by --trainer.max_time 00:01:00:00."
        )
    elif steps < wanted:
        cause = f"the time limit (--trainer.max_time {limit}) or early stopping" if limit else "early stopping"
        Console().print(f"\nTrained {steps} of {wanted} steps: {cause} ended it.")


def say_what_was_written(folder: Path, trained: DiffusionSegmenter | None) -> None:
    """Print the files of a run.

    Args:
        folder: The run's folder.
        trained: The trained model if there is a best checkpoint, to print the command that tests it; else None.
    """
    console = Console(soft_wrap=True)
    console.print(f"\nWrote to {folder}:")
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        if path.parts[0] != "wandb":  # W&B has printed its folder
            console.print(f"  {path}", highlight=False)
    if trained is not None and trained.num_samples > 1:
        trust = "".join(f" --trust {package}" for package in trained.untrusted_packages())
        console.print(f"\nNext: diffmedseg evaluate {os.path.relpath(folder)} --model.num_samples 16{trust}")
