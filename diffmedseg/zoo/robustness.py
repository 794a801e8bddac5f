"""The robustness table of a model's card: Dice on corrupted copies of images."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from diffmedseg.atomic import write_whole
from diffmedseg.errors import ZooError
from diffmedseg.zoo.registry import ROBUSTNESS


@dataclass(frozen=True)
class RobustnessRow:
    """Dice of a model on a set of images under one corruption.

    Attributes:
        images: The set of images.
        corruption: Corruption of the images, such as ``blur, strong``; ``none`` for the original images.
        cases: Number of images.
        dice: Mean Dice.
        change: Mean difference from the Dice of the same images without corruption.
        low: Lower end of the 95 % interval of the change.
        high: Upper end of the interval.
    """

    images: str
    corruption: str
    cases: int
    dice: float
    change: float
    low: float
    high: float


def write_robustness(folder: Path, rows: Sequence[RobustnessRow]) -> Path:
    """Write the table into the folder of a run. ``diffmedseg export`` copies it into the entry and its card."""
    names = [field.name for field in fields(RobustnessRow)]

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            for row in rows:
                values = [getattr(row, name) for name in names]
                writer.writerow([f"{value:.4f}" if isinstance(value, float) else value for value in values])

    write_whole(folder / ROBUSTNESS, save)
    return folder / ROBUSTNESS


def read_robustness(path: Path) -> list[RobustnessRow]:
    """Read the table.

    Raises:
        ZooError: If the file is not such a table.
    """
    kinds = {field.name: field.type for field in fields(RobustnessRow)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if list(reader.fieldnames or []) != list(kinds):
                raise ValueError(f"its columns are {','.join(reader.fieldnames or []) or 'missing'}")
            return [RobustnessRow(**{name: kind(line[name]) for name, kind in kinds.items()}) for line in reader]  # type: ignore[operator]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ZooError(
            f"{path} is no robustness table: {error}. Expected the columns {','.join(kinds)}. Write the table again."
        ) from error


def robustness_section(folder: Path) -> str:
    """Return the card's section on corrupted images; empty if the folder has no robustness table."""
    if not (folder / ROBUSTNESS).is_file():
        return ""
    lines = [
        f"| {row.images} | {row.corruption} | {row.cases} | {row.dice:.3f} | {_change(row)} |"
        for row in read_robustness(folder / ROBUSTNESS)
    ]
    return (
        "## Robustness\n\n"
        "Mean Dice on corrupted copies of images, and its difference from the Dice on the original images, with a\n"
        "95 % bootstrap interval over images. Training augmentation may contain corruptions of these kinds.\n\n"
        "| images | corruption | cases | Dice | change |\n|---|---|---|---|---|\n" + "\n".join(lines) + "\n\n"
    )


def _change(row: RobustnessRow) -> str:
    return "" if row.corruption == "none" else f"{row.change:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
