"""``diffmedseg zoo``: list and export pretrained models."""

import sys
from pathlib import Path

from jsonargparse import auto_cli

from diffmedseg import zoo
from diffmedseg.dashboards.artifacts import log_zoo_entry


def list_entries() -> None:
    """Print the names of the entries."""
    print("\n".join(zoo.list_pretrained()) or f"{zoo.zoo_folder()} has no entries.")


def export(run: Path, *, name: str, folder: Path | None = None, half: bool = True, notes: str = "") -> None:
    """Make a zoo entry of a finished run; where that was logged to W&B, an artifact, too.

    Args:
        run: The run's folder, such as runs/medsegdiff-synthetic/version_0.
        name: Name of the entry: model_data.tag.
        folder: The zoo; by default $DIFFMEDSEG_ZOO, else the repository's.
        half: Store float16.
        notes: What the card should say besides.
    """
    entry = zoo.export(run, name, folder, half, notes)
    log_zoo_entry(run, entry)
    print(f"Wrote {entry}")


def main(args: list[str]) -> None:
    """Run ``diffmedseg zoo`` with these arguments."""
    try:
        auto_cli({"list": list_entries, "export": export}, args=args, prog="diffmedseg zoo")
    except zoo.ZooError as error:
        sys.exit(f"error: {error}")
