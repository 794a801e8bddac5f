"""Supervision in words, as results state it, and the file that records it for pseudo masks."""

import re
from collections.abc import Sequence
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.wording import count

#: Name of the file, in a folder of pseudo masks. It describes the supervision in words.
SUPERVISION = "supervision.txt"
#: Statement that true masks chose neither weights, nor a checkpoint, nor the end of training.
NOTHING = "masks chose nothing"
_MASKS = "masks"
_PSEUDO = "labels"
_INNER = re.compile(r"\([^()]*\)")


def used_masks(supervision: str) -> bool:
    """Return whether weights learned from true masks, or from labels that masks made."""
    return supervision.startswith(_MASKS)


def learned_from_pseudo_masks(supervision: str) -> bool:
    """Return whether weights learned from pseudo masks of proposers that used no mask."""
    return supervision.startswith(_PSEUDO)


def masks_chose_nothing(supervision: str) -> bool:
    """Return whether a supervision states that masks chose nothing. The statements of its sources do not count."""
    outer, removed = supervision, 1
    while removed:
        outer, removed = _INNER.subn("", outer)
    return NOTHING in outer


def supervision_of_pseudo_masks(
    sources: str, used_masks: bool, true_masks: int, chosen_by: Sequence[str], masks_chose: str | None
) -> str:
    """Return the supervision of pseudo masks.

    Args:
        sources: The proposers, and what they learned from.
        used_masks: Whether a proposer learned from masks.
        true_masks: Number of added true masks.
        chosen_by: Influence of masks on the choice of proposers; empty without any.
        masks_chose: Settings of the rule that were chosen with true masks; None for no setting.
    """
    added = f" and {count(true_masks, 'true mask')}" if true_masks else ""
    chosen = "; ".join(chosen_by) or NOTHING
    if masks_chose is not None:
        chosen += f"; masks also chose {masks_chose}" if chosen_by else f" but {masks_chose}"
    return f"{_MASKS if used_masks else _PSEUDO}{added}: pseudo masks of {sources}; {chosen}"


def after(initial: str, supervision: str) -> str:
    """Return the supervision of weights that were trained twice.

    Args:
        initial: Supervision of the initial weights.
        supervision: Supervision of the training that followed.
    """
    if initial == supervision or used_masks(supervision):
        return supervision
    own, nothing, rest = supervision, "", ""
    if masks_chose_nothing(supervision):
        own, nothing, rest = supervision.rpartition(f"; {NOTHING}")
    if used_masks(initial):
        return f"{_MASKS} (the initial weights learned from {initial}), then {own}"
    if learned_from_pseudo_masks(initial) and not masks_chose_nothing(initial):
        nothing = rest = ""  # masks chose something of the initial weights
    return f"{own}; the initial weights learned from ({initial}){nothing}{rest}"


def read_supervision(folder: Path) -> str | None:
    """Return the supervision of the pseudo masks of a folder; None if the folder has no record (true masks).

    Raises:
        DataError: If the file is damaged; the message names it.
    """
    path = folder / SUPERVISION
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): make the pseudo masks again, in a new folder.") from error
    if not text:
        raise DataError(f"{path} is empty: it has to name the supervision. Make the masks again, in a new folder.")
    return text
