"""What the noise of a sample consists of, for PyTorch and for graphs alike."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NoiseInput:
    """A part of the noise of one sample; the parts come from the sample's generator in their order.

    Attributes:
        name: What it is for.
        kind: ``normal`` for the standard normal distribution, ``uniform`` for [0, 1).
        shape: Its shape, without images and samples.
    """

    name: str
    kind: Literal["normal", "uniform"]
    shape: tuple[int, ...]
