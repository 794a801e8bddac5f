"""Compute in float64 on devices without float64."""

from torch import Tensor

_WITHOUT = ("mps",)  # Apple's


def with_float64(values: Tensor) -> Tensor:
    """Return values on a device with float64: on the CPU if their device has none."""
    return values.cpu() if values.device.type in _WITHOUT else values
