"""The parts of a model as modules of tensors alone, of which graphs can be made."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from diffmedseg.diffusion import NoiseProcess
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.models.denoiser import Condition


class Graph(nn.Module, ABC):
    """A module of tensors alone.

    Attributes:
        inputs: By name, the names of the axes, from the first one, that may have any length.
        outputs: Names of the outputs.
    """

    inputs: Mapping[str, tuple[str, ...]]
    outputs: list[str]

    @abstractmethod
    def example(self, images: int, samples: int) -> tuple[Tensor, ...]:
        """Return inputs of random numbers for a number of images, and of samples of each."""


class SamplerGraph(Graph):
    """Images and noise in, samples and what follows from them out; all chains run together.

    Args:
        model: The model.
        num_steps: Network evaluations per sample, unrolled.

    Attributes:
        noise: What the noise of a sample consists of, in the order of the inputs.
        reverse: The steps, of a method that denoises masks step by step; None for other methods.

    Raises:
        ExportError: If the model cannot be a graph.
        ValueError: If its sampler adds noise at its steps.
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
            noise: Each (B, S, *shape), as the attribute ``noise`` says.

        Returns:
            ``samples`` (B, S, K, h, w); ``probability`` (B, K, h, w), fused, before calibration; ``prior``
            (B, K, h, w) where there is one.
        """
        named = {part.name: values for part, values in zip(self.noise, noise, strict=True)}
        result = self.model.fuse_by(self.model.fusion, self._draw(image, named), self.model.image_size)
        return result.samples, result.probability, *(() if result.prior is None else (result.prior,))


class EncodeGraph(Graph):
    """What depends on the image alone: images (B, C, h, w) in [-1, 1] in, the tensors of their condition out.

    Args:
        model: The model.

    Attributes:
        structure: How a condition is put together of its tensors.
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
    """A step of the chains: noisy masks, noise levels and the tensors of a condition in, x_0 out.

    Args:
        model: The model.
        process: Its noise process.
        encode: Of the same model.
    """

    def __init__(self, model: DiffusionSegmenter, process: NoiseProcess, encode: EncodeGraph) -> None:
        super().__init__()
        self.denoiser, self.process, self._structure = model.denoiser, process, encode.structure
        self._encode = [encode]  # in a list, its weights are no part of this graph
        self.inputs = {"x_t": ("rows",), "t": ("rows",), **dict.fromkeys(encode.outputs, ("images",))}
        self.outputs = ["x_0"]

    def example(self, images: int, samples: int) -> tuple[Tensor, ...]:
        """Return noise, levels and the condition of images; see the base class."""
        encode, rows, generator = self._encode[0], images * samples, torch.Generator().manual_seed(images)
        x_t = torch.randn(rows, self.denoiser.x_channels, *encode.size, generator=generator)
        t = torch.randint(self.process.num_train_steps, (rows,), generator=generator)
        return x_t, t, *encode(*encode.example(images, samples))

    def forward(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> tuple[Tensor]:
        """Predict x_0 (B * S, K, h, w), in [-1, 1], of x_t of the same shape and t (B * S,), image-major."""
        encoded: Condition = pytree.tree_unflatten(condition, self._structure)
        return (self.process.to_x_0(self.denoiser(x_t, t, encoded).float(), x_t, t),)


def _random_image(images: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.rand(images, channels, *size, generator=generator) * 2 - 1
