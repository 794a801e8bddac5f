"""Provenance of the scores of a test: the command, the versions, and the training of the weights."""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from diffmedseg.run_log import read_whole_rows
from diffmedseg.versions import installed_versions

Curve = Sequence[tuple[int, float]]  # training steps and values
_PACKAGES = ("diffmedseg", "torch", "lightning")


@dataclass(frozen=True)
class Provenance:
    """Provenance of the scores of a test.

    Attributes:
        command: The command line; empty in an interactive Python session.
        date: End of the test.
        versions: Version of each package.
        steps: Training steps of the tested weights; None if they are not known.
        curves: Logged curves of training by name, such as ``train/loss``; empty without a log.
    """

    command: str
    date: str
    versions: Mapping[str, str]
    steps: int | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)


def provenance_now(steps: int | None, log: Path) -> Provenance:
    """Return the provenance of a test that ends now.

    Args:
        steps: Training steps of the tested weights; None if they are not known.
        log: The ``metrics.csv`` of their training; it may be missing.
    """
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    versions = {name: version for name, version in installed_versions().items() if name in _PACKAGES}
    return Provenance(command_line(sys.argv), date, versions, steps, read_curves(log))


def command_line(arguments: Sequence[str]) -> str:
    """Return the command line as a user types it, without the folder of a script."""
    if not arguments or arguments[0] in {"", "-c"}:
        return ""
    program = Path(arguments[0])
    if program.stem == "diffmedseg" or program.parts[-2:] == ("diffmedseg", "__main__.py"):
        return shlex.join(["diffmedseg", *arguments[1:]])
    return shlex.join(["python", program.name, *arguments[1:]])


def read_curves(log: Path) -> dict[str, Curve]:
    """Read training losses and validation scores from a ``metrics.csv``; empty if it is missing."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in read_whole_rows(log)[1] if log.is_file() else ():
        for name, value in row.items():
            logged = (name.startswith("train/") and name.endswith("loss")) or name.startswith("val/")
            if logged and value and math.isfinite(float(value)):
                curves.setdefault(name, []).append((int(row["step"]) + 1, float(value)))
    return dict(sorted(curves.items()))
