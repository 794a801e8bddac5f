"""The parts of a model as modules with tensors as inputs and outputs, which can be exported as graphs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from diffmedseg.diffusion import NoiseProcess
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.models.denoiser import Condition


class Graph(nn.Module, ABC):
    """A module with tensors as inputs and outputs.

    Attributes:
        inputs: By name of each input, the names of its first axes, which may have any length.
        outputs: Names of the outputs.
    """

    inputs: Mapping[str, tuple[str, ...]]
    outputs: list[str]

    @abstractmethod
    def example(self, images: int, samples: int) -> tuple[Tensor, ...]:
        """Return random inputs for a number of images, and a number of samples per image."""


class SamplerGraph(Graph):
    """Maps images and noise to samples, probability and prior. All chains run together.

    Args:
        model: The model.
        num_steps: Network evaluations per sample, unrolled.

    Attributes:
        noise: The parts of the noise of a sample, in the order of the inputs.
        reverse: The steps of a method that denoises masks step by step; None for other methods.

    Raises:
        ExportError: If the model cannot be exported.
        ValueError: If the model's sampler adds noise at its steps.
    """

    def __init__(self, model: DiffusionSegmenter, num_steps: int) -> None:
        super().__init__()
        self.model = model
        sampler = model.graph_sampler(num_steps)
        self.noise, self.reverse, self._draw = sampler.inputs, sampler.reverse, sampler.draw
        self.inputs = {"image": ("images",), **{part.name: ("images", "samples") for part in self.noise}}
        self.outputs = ["samples", "probability", "prior"][: len(self(*self.example(1, 1)))]

    def example(self, images: int, samples: int) -> tuple[Tensor, ...]:
        """Return images and noise; see the base class."""
        generator, draw = torch.Generator().manual_seed(images), {"normal": torch.randn, "uniform": torch.rand}
        image = _random_image(images, len(self.model.channels), self.model.image_size, generator)
        noise = [draw[part.kind](images, samples, *part.shape, generator=generator) for part in self.noise]
        return image, *noise

    def forward(self, image: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """Segment.

        Args:
            image: (B, C, h, w), in [-1, 1], on the model's grid.
            noise: The inputs of the attribute ``noise``, each (B, S, *shape).

        Returns:
            ``samples`` (B, S, K, h, w); ``probability`` (B, K, h, w): the fused samples, before calibration; ``prior``
            (B, K, h, w), if the model has a prior.
        """
        by_name = {part.name: values for part, values in zip(self.noise, noise, strict=True)}
        result = self.model.fuse_by(self.model.fusion, self._draw(image, by_name), self.model.image_size)
        return result.samples, result.probability, *(() if result.prior is None else (result.prior,))


class EncodeGraph(Graph):
    """Maps images (B, C, h, w) in [-1, 1] to the tensors of their condition, which depends on the image alone.

    Args:
        model: The model.

    Attributes:
        structure: Structure of a condition, to build it from its tensors.
    """

    def __init__(self, model: DiffusionSegmenter) -> None:
        super().__init__()
        self.denoiser, self._channels = model.denoiser, len(model.channels)
        _, *sides = model.tiling.parts()[0]
        rows, columns = sides
        self.size = (rows.stop - rows.start, columns.stop - columns.start)
        leaves, self.structure = pytree.tree_flatten(self.denoiser.encode(*self.example(1, 1)))
        self.inputs, self.outputs = {"image": ("images",)}, [f"condition_{i}" for i in range(len(leaves))]

    def example(self, images: int, samples: int) -> tuple[Tensor, ...]:
        """Return images; see the base class."""
        return (_random_image(images, self._channels, self.size, torch.Generator().manual_seed(images)),)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode; see the class."""
        return tuple(pytree.tree_leaves(self.denoiser.encode(image)))


class StepGraph(Graph):
    """Maps noisy masks, noise levels and the tensors of a condition to x_0: a step of the chains.

    Args:
        model: The model.
        process: The model's noise process.
        encode: The graph of the same model that encodes images.
    """

    def __init__(self, model: DiffusionSegmenter, process: NoiseProcess, encode: EncodeGraph) -> None:
        super().__init__()
        self.denoiser, self.process, self._structure = model.denoiser, process, encode.structure
        self._encode = [encode]  # the list keeps its weights out of this graph
        self.inputs = {"x_t": ("rows",), "t": ("rows",), **dict.fromkeys(encode.outputs, ("images",))}
        self.outputs = ["x_0"]

    def example(self, images: int, samples: int) -> tuple[Tensor, ...]:
        """Return noisy masks, noise levels and the condition of images; see the base class."""
        encode, rows, generator = self._encode[0], images * samples, torch.Generator().manual_seed(images)
        x_t = torch.randn(rows, self.denoiser.x_channels, *encode.size, generator=generator)
        t = torch.randint(self.process.num_train_steps, (rows,), generator=generator)
        return x_t, t, *encode(*encode.example(images, samples))

    def forward(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> tuple[Tensor]:
        """Predict x_0 (B * S, K, h, w), in [-1, 1], from x_t of the same shape and t (B * S,), image-major."""
        encoded: Condition = pytree.tree_unflatten(condition, self._structure)
        return (self.process.to_x_0(self.denoiser(x_t, t, encoded).float(), x_t, t),)


def _random_image(images: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.rand(images, channels, *size, generator=generator) * 2 - 1
