"""The parts of the noise of a sample, for PyTorch and for exported graphs."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NoiseInput:
    """A part of the noise of one sample. The sample's generator draws the parts in order.

    Attributes:
        name: Name of the part.
        kind: ``normal`` for the standard normal distribution, ``uniform`` for [0, 1).
        shape: Shape, without the dimensions of images and samples.
    """

    name: str
    kind: Literal["normal", "uniform"]
    shape: tuple[int, ...]
