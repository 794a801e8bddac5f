"""The precision of a run on a CPU that computes bfloat16 in software."""

import logging
from collections.abc import Sequence

import torch

from diffmedseg.cli.predicting import on_device

_log = logging.getLogger(__name__)

_SETTING = "--trainer.precision"


def fitting_precision(precision: object, accelerator: str, arguments: Sequence[str]) -> object:
    """Return the precision for a run on this machine.

    On a CPU without instructions for bfloat16, a training step in ``bf16-mixed`` takes several times as long as in
    float32 (``experiments/benchmarks/step_time.py``). So float32 replaces the bfloat16 of a preset there.

    Args:
        precision: The Trainer's precision in the configuration.
        accelerator: The Trainer's accelerator.
        arguments: The command line. A precision in it is kept, with a warning.
    """
    if str(precision) not in ("bf16-mixed", "bf16") or not _on_cpu(accelerator) or has_bfloat16():
        return precision
    if any(argument.startswith(_SETTING) for argument in arguments):
        _log.warning("This CPU computes bfloat16 in software, which is slow. %s 32-true is faster here.", _SETTING)
        return precision
    _log.info("This CPU computes bfloat16 in software, which is slow: float32 is used.")
    return "32-true"


def has_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16 that PyTorch uses."""
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _on_cpu(accelerator: str) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and on_device("auto").type == "cpu")
