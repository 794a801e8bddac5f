"""What a run says when it ends."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from diffmedseg.models.segmenter import DiffusionSegmenter


def say_how_far_it_got(before: int, steps: int, wanted: int, limit: Any) -> None:  # noqa: ANN401
    """Say whether less was trained than was asked for.

    Args:
        before: Steps of the run before it went on.
        steps: Steps now.
        wanted: ``max_steps``.
        limit: ``max_time``; None for no limit.
    """
    if steps == before:
        Console().print(
            f"\nNothing was trained: at {steps} steps the run had reached its max_steps or max_time, "
            "or early stopping had ended it. All count from its first start: raise the one that stopped it, such "
            "as --trainer.max_time 00:01:00:00."
        )
    elif steps < wanted:
        why = f"the time limit (--trainer.max_time {limit}) or early stopping" if limit else "early stopping"
        Console().print(f"\nTrained {steps} of {wanted} steps: {why} ended it.")


def say_what_was_written(folder: Path, trained: DiffusionSegmenter | None) -> None:
    """Name the files of a run.

    Args:
        folder: The run's.
        trained: A model whose best checkpoint is there, to say how to test it with more samples; None otherwise.
    """
    console = Console(soft_wrap=True)
    console.print(f"\nWrote to {folder}:")
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        if path.parts[0] != "wandb":  # its own: W&B has said where it is
            console.print(f"  {path}", highlight=False)
    if trained is not None and trained.num_samples > 1:
        trust = "".join(f" --trust {package}" for package in trained.untrusted_packages())
        console.print(f"\nNext: diffmedseg evaluate {os.path.relpath(folder)} --model.num_samples 16{trust}")
