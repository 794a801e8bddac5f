"""Sampling as a function of an image and of noise, which a graph can be made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from diffmedseg.diffusion.unrolled import UnrolledReverse
from diffmedseg.noise_input import NoiseInput
from diffmedseg.segmentation import SampleSet


@dataclass(frozen=True)
class GraphSampler:
    """How samples follow from noise.

    Attributes:
        inputs: What the noise of a sample consists of, in the order in which the sample's generator gives it.
        draw: Takes images (B, C, H, W) in [-1, 1] on the model's grid, and noise by name, each (B, S, *shape). It
            returns what was drawn; a method without noise draws one sample.
        reverse: The steps, of a method that denoises masks step by step; None for other methods.
    """

    inputs: tuple[NoiseInput, ...]
    draw: Callable[[Tensor, Mapping[str, Tensor]], SampleSet]
    reverse: UnrolledReverse | None = None
