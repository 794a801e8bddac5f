"""Where the scores of a test come from: the command, the versions, and the training of the weights."""

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
    """Where the scores of a test come from.

    Attributes:
        command: The command line; empty where Python runs no script.
        date: When the test ended.
        versions: By package.
        steps: Training steps of the weights that were tested; None where nothing says.
        curves: What training logged, by name, such as ``train/loss``; empty where its log is not there.
    """

    command: str
    date: str
    versions: Mapping[str, str]
    steps: int | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)


def provenance_now(steps: int | None, log: Path) -> Provenance:
    """Return where the scores of a test that ends now come from.

    Args:
        steps: Training steps of the weights that were tested; None where nothing says.
        log: The ``metrics.csv`` of their training, which may be missing.
    """
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    versions = {name: found for name, found in installed_versions().items() if name in _PACKAGES}
    return Provenance(command_line(sys.argv), date, versions, steps, read_curves(log))


def command_line(arguments: Sequence[str]) -> str:
    """Return the command that a user types; without the folder of a script."""
    if not arguments or arguments[0] in {"", "-c"}:
        return ""
    program = Path(arguments[0])
    if program.stem == "diffmedseg" or program.parts[-2:] == ("diffmedseg", "__main__.py"):
        return shlex.join(["diffmedseg", *arguments[1:]])
    return shlex.join(["python", program.name, *arguments[1:]])


def read_curves(log: Path) -> dict[str, Curve]:
    """Read the losses of training and the scores of validation from a ``metrics.csv``; empty where there is none."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in read_whole_rows(log)[1] if log.is_file() else ():
        for name, value in row.items():
            logged = (name.startswith("train/") and name.endswith("loss")) or name.startswith("val/")
            if logged and value and math.isfinite(float(value)):
                curves.setdefault(name, []).append((int(row["step"]) + 1, float(value)))
    return dict(sorted(curves.items()))
