"""Reading an offline run of W&B back, as `wandb leet` does."""

import json
import subprocess
import sys


def records(run, kind):
    """Return what a run's folder (offline-run-...) holds of a kind, in order."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    found = [json.loads(line) for line in printed.splitlines()]
    return [one[kind] for one in found if one["type"] == kind]


def history(run):
    return records(run, "history")
