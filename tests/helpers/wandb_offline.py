"""Reading an offline run of W&B back, as `wandb leet` does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def records(run: Path, kind: str) -> list[Any]:
    """Return what a run's folder (offline-run-...) holds of a kind, in order."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    found = [json.loads(line) for line in printed.splitlines()]
    return [one[kind] for one in found if one["type"] == kind]


def history(run: Path) -> list[Any]:
    return records(run, "history")
