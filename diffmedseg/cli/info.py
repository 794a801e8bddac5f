"""``diffmedseg info``: installed versions, and the names of models, data sets, presets and entries."""

import json
import os
import platform
import shutil
import subprocess
from typing import Any

from diffmedseg.cli.parsing import Parser
from diffmedseg.experiments import list_datasets, list_models, list_presets
from diffmedseg.versions import package_versions
from diffmedseg.zoo.source import current_source


def main(args: list[str]) -> None:
    """Run ``diffmedseg info``."""
    parser = Parser("diffmedseg info", "Show versions, and the names of models, data sets, presets, entries, devices.")
    parser.add_argument("--json", action="store_true", help="Print JSON, for programs.")
    facts = collect()
    if parser.parse_args(args).json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name}:")
        for item in value:
            print(f"  {item}{_suffix(value[item]) if isinstance(value, dict) else ''}")


def _suffix(value: str | list[str] | None) -> str:
    return f": {', '.join(value) if isinstance(value, list) else value or 'not installed'}"


def collect() -> dict[str, Any]:
    """Return versions, models, data sets, presets by model, zoo entries and devices, without importing torch."""
    entries = {name: entry.status for name, entry in sorted(current_source().entries().items())}
    return {
        "versions": {"python": platform.python_version(), **package_versions()},
        "models": list_models(),
        "datasets": list_datasets(),
        "presets": {model: list_presets(model) for model in list_models()},
        "entries": entries,
        "devices": _devices(),
    }


def _devices() -> list[str]:
    """Return the devices by their names for ``--device``: cpu, and the GPUs of the NVIDIA driver."""
    devices = [f"cpu ({os.cpu_count()} cores)"]
    if tool := shutil.which("nvidia-smi"):
        printed = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
        names = printed.stdout.split("\n") if printed.returncode == 0 else []
        devices += [f"cuda:{number} ({name})" for number, name in enumerate(filter(None, names))]
    return devices
