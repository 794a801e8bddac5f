"""``diffmedseg predict --devices``: a process for each card, which together fill one folder."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy

import torch

from diffmedseg.cli.predicting import load_leading, on_device
from diffmedseg.errors import DataError
from diffmedseg.prediction.parts import Part
from diffmedseg.prediction.removing import close_parts, remove_predictions

_ENDED = (0, 1)  # exit codes of a part that went through all of its inputs


def predict_on_devices(args: Sequence[str], options: argparse.Namespace) -> int:
    """Run ``diffmedseg predict --part I/N`` on each of N devices, and wait for all.

    Args:
        args: The command line.
        options: What it says.

    Returns:
        The exit code: 0, or 1 where a part or an input failed, or 130 after Ctrl-C.

    Raises:
        DataError: If there are fewer devices, or the folder cannot be written.
        ZooError: If the model cannot be loaded.
    """
    devices = name_devices(options.device, options.devices)
    load_leading(deepcopy(options))  # says once what would fail in every process
    if options.overwrite:
        remove_predictions(options.out)
    kept = [argument for argument in args if argument != "--overwrite"]
    parts = [Part(number, len(devices)) for number in range(1, len(devices) + 1)]
    processes = [
        subprocess.Popen([*_command(kept, part), f"--device={device}"], env=_environment(device, len(devices)))
        for part, device in zip(parts, devices, strict=True)
    ]
    try:
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:  # which the processes were told, too
        codes = [process.wait() for process in processes]
        return 130
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    return _finish(options, parts, codes)


def _finish(options: argparse.Namespace, parts: Sequence[Part], codes: Sequence[int]) -> int:
    """Say which parts were cut off; where none was, leave a folder like that of one process."""
    cut = [f"{part.number}/{part.of}" for part, code in zip(parts, codes, strict=True) if code not in _ENDED]
    if cut:
        print(f"Cut off: part {', '.join(cut)}. What is in {options.out} is whole: --resume goes on.", file=sys.stderr)
    elif options.out.is_dir() and (options.out / "predictions.yaml").is_file():
        close_parts(options.out)
    return 1 if any(codes) else 0


def name_devices(device: str, count: int) -> list[str]:
    """Return the names of as many devices.

    Args:
        device: ``auto`` or ``cuda`` for the first CUDA cards, ``cpu`` for processes on the CPU.
        count: How many.

    Raises:
        DataError: If there are fewer, or there is only one of the kind.
    """
    kind = str(on_device(device))
    if kind == "cpu":
        return ["cpu"] * count
    if kind != "cuda":
        raise DataError(f"--devices {count} with --device {device}: that is one device. Use --device cuda or cpu.")
    if torch.cuda.device_count() < count:
        raise DataError(f"--devices {count}: there are {torch.cuda.device_count()} CUDA cards here. Ask for no more.")
    return [f"cuda:{number}" for number in range(count)]


def _command(args: Sequence[str], part: Part) -> list[str]:
    return [sys.executable, "-m", "diffmedseg", "predict", *args, "--devices=1", f"--part={part.number}/{part.of}"]


def _environment(device: str, count: int) -> dict[str, str]:
    """Share the cores between processes on the CPU."""
    cores = max((os.cpu_count() or 1) // count, 1)
    return {"OMP_NUM_THREADS": str(cores)} | dict(os.environ) if device == "cpu" else dict(os.environ)
