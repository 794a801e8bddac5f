"""Numbers in float64, though not every device has them."""

from torch import Tensor

_WITHOUT = ("mps",)  # Apple's


def with_float64(values: Tensor) -> Tensor:
    """Return values on a device that has float64: on the CPU if theirs has none, else where they are."""
    return values.cpu() if values.device.type in _WITHOUT else values
