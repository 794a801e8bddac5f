"""Choose the checkpoint of a run that proposes masks, and report whether true masks influenced it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffmedseg.data.labels.supervision import learned_from_pseudo_masks, masks_chose_nothing
from diffmedseg.errors import ZooError
from diffmedseg.files import expand_home
from diffmedseg.models.loading import chosen_checkpoint, read_settings
from diffmedseg.runs import last_checkpoint
from diffmedseg.zoo.source import current_source


def proposing_checkpoint(name: str) -> tuple[Path | str, str | None]:
    """Choose the checkpoint of a run that proposes masks.

    Args:
        name: A run's folder, a checkpoint, or a zoo entry.

    Returns:
        The checkpoint: the last checkpoint of a run that was validated on true masks, or the best checkpoint of a
        student. And the influence of true masks on the choice, in words; None without any.

    Raises:
        ZooError: If the run has no such checkpoint, or it is damaged.
    """
    path = expand_home(name)
    if not path.exists():
        learned_from = current_source().find(name)[1].learned_from
        by_pseudo_masks = learned_from_pseudo_masks(learned_from) and masks_chose_nothing(learned_from)
        return name, None if by_pseudo_masks else "masks chose the checkpoint of the zoo entry"
    last = last_checkpoint(path) if path.is_dir() else path
    if not last.is_file():
        raise ZooError(f"{last} is missing: {path} is not a finished run. Finish its training first.")
    content = _read(last)
    if learned_from_pseudo_masks(str(content.get("learned_from", ""))):
        return (chosen_checkpoint(path) if path.is_dir() else path), None
    if path.is_file() and path.name != "last.ckpt":
        return path, f"masks may have chosen the checkpoint {path.name}"
    run = last.parents[1] / "config.yaml"
    settings = read_settings(run, ("trainer",)) if run.is_file() else {}
    return last, _stopped(settings, int(content.get("global_step", 0)))


def _stopped(settings: Mapping[str, Any], steps: int) -> str | None:
    """Return a note if masks may have ended training, by early stopping; else None."""
    if not settings.get("early_stopping", True) or steps >= settings.get("trainer", {}).get("max_steps", steps + 1):
        return None
    return f"masks may have ended training at {steps} steps, by early stopping"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a file can be anything
        raise ZooError(f"{path} is no checkpoint, or damaged ({error}). Train again.") from error
    return content
