"""``diffmedseg predict --devices``: one process for each GPU, all writing to one folder."""

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

_ENDED = (0, 1)  # exit codes of a part that finished all its inputs


def predict_on_devices(args: Sequence[str], options: argparse.Namespace) -> int:
    """Run ``diffmedseg predict --part I/N`` on each of N devices, and wait for all of them.

    Args:
        args: The command line.
        options: The parsed command line.

    Returns:
        The exit code: 0; 1 if a part or an input failed; 130 after Ctrl-C.

    Raises:
        DataError: If there are fewer devices, or the folder cannot be written.
        ZooError: If the model cannot be loaded.
    """
    devices = name_devices(options.device, options.devices)
    load_leading(deepcopy(options))  # reports an error once that would occur in every process
    if options.overwrite:
        remove_predictions(options.out)
    arguments = [argument for argument in args if argument != "--overwrite"]
    parts = [Part(number, len(devices)) for number in range(1, len(devices) + 1)]
    processes = [
        subprocess.Popen([*_command(arguments, part), f"--device={device}"], env=_environment(device, len(devices)))
        for part, device in zip(parts, devices, strict=True)
    ]
    try:
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:  # the processes receive it, too
        codes = [process.wait() for process in processes]
        return 130
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    return _finish(options, parts, codes)


def _finish(options: argparse.Namespace, parts: Sequence[Part], codes: Sequence[int]) -> int:
    """Report interrupted parts. If all parts finished, merge their tables, as one process would write them."""
    interrupted = [f"{part.number}/{part.of}" for part, code in zip(parts, codes, strict=True) if code not in _ENDED]
    if interrupted:
        message = f"Interrupted: part {', '.join(interrupted)}. Results in {options.out} are complete files; continue "
        print(f"{message}with --resume.", file=sys.stderr)
    elif options.out.is_dir() and (options.out / "predictions.yaml").is_file():
        close_parts(options.out)
    return 1 if any(codes) else 0


def name_devices(device: str, count: int) -> list[str]:
    """Return the names of ``count`` devices.

    Args:
        device: ``auto`` or ``cuda`` for the first CUDA GPUs, ``cpu`` for processes on the CPU.
        count: Number of devices.

    Raises:
        DataError: If there are fewer devices, or the kind has only one device.
    """
    kind = str(on_device(device))
    if kind == "cpu":
        return ["cpu"] * count
    if kind != "cuda":
        raise DataError(f"--devices is {count}, but --device {device} is one device. Use --device cuda or cpu.")
    if torch.cuda.device_count() < count:
        available = torch.cuda.device_count()
        raise DataError(f"--devices is {count}; this machine has {available} CUDA GPUs. Use --devices {available}.")
    return [f"cuda:{number}" for number in range(count)]


def _command(args: Sequence[str], part: Part) -> list[str]:
    return [sys.executable, "-m", "diffmedseg", "predict", *args, "--devices=1", f"--part={part.number}/{part.of}"]


def _environment(device: str, count: int) -> dict[str, str]:
    """Return the environment of a process. Processes on the CPU share the cores."""
    cores = max((os.cpu_count() or 1) // count, 1)
    return {"OMP_NUM_THREADS": str(cores)} | dict(os.environ) if device == "cpu" else dict(os.environ)
