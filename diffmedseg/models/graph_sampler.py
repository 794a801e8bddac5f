"""Sampling as a function of image and noise, for exported graphs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from diffmedseg.diffusion.unrolled import UnrolledReverse
from diffmedseg.noise_input import NoiseInput
from diffmedseg.segmentation import SampleSet


@dataclass(frozen=True)
class GraphSampler:
    """A function from images and noise to samples.

    Attributes:
        inputs: The noise of a sample, in the order in which the sample's generator draws it.
        draw: Draws samples from images (B, C, H, W) in [-1, 1] on the model's grid, and noise by name, each
            (B, S, *shape). A method without noise draws one sample.
        reverse: The denoising steps; None for methods that do not denoise step by step.
    """

    inputs: tuple[NoiseInput, ...]
    draw: Callable[[Tensor, Mapping[str, Tensor]], SampleSet]
    reverse: UnrolledReverse | None = None
