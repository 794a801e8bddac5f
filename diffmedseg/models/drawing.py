"""A segmenter with one network: samples of images on the model's grid, and their fusion."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from diffmedseg.familiarity import Familiarity, pool_maps
from diffmedseg.keyed_random import Generator, sample_generator
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.models.stacks import as_volume, cut_slices, volumes_of
from diffmedseg.models.tiling import Tiling, Window
from diffmedseg.models.views import TTA, flip, views_of
from diffmedseg.segmentation import SampleSet, Segmentation, resize_soft

#: By image, the generator of each sample.
Generators = Sequence[Sequence[Generator]]


class NetworkSegmenter(Segmenter, ABC):
    """A segmenter that draws samples with one network, in passes within a memory budget.

    A subclass draws the samples of such a pass. Its attributes are the arguments of
    :class:`~diffmedseg.models.DiffusionSegmenter`.
    """

    num_steps: int
    seed: int
    tta: TTA
    familiarity: Familiarity | None
    pixels_per_pass: int
    channels_last: bool
    tiling: Tiling
    #: Share of the votes of the condition network's own mask in the fusion of samples.
    prior_share: float = 0.0

    @abstractmethod
    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        """Draw samples for images.

        Args:
            image: (B, C, H, W), in [-1, 1], on the model's grid; (1, C, D, H, W) for a network of volumes.
            generators: B lists of S generators, one per sample: the only source of randomness.
            num_steps: Network evaluations per sample.

        Returns:
            Samples (B, S, K, ...), float32, of the image's size, and the condition network's own mask if it has one.
        """

    @property
    def title(self) -> str:
        """Name of the network, or else of the method, for people."""
        return self.denoiser.title or self.name

    @property
    def papers(self) -> tuple[str, ...]:
        """Papers that describe the network's method."""
        return tuple(self.denoiser.papers)

    def fewest_samples(self, tta: TTA | None = None) -> int:
        """Return the number of views; see the base class."""
        return len(views_of(self.tta if tta is None else tta))

    # Drawing samples.

    @torch.inference_mode()
    def draw(
        self,
        image: Tensor,
        keys: Sequence[str],
        samples: range,
        num_steps: int | None = None,
        seed: int | None = None,
        tta: TTA | None = None,
    ) -> SampleSet:
        """Draw samples, dealt to the views in turn; see the base class. Features are of the image without flips."""
        num_steps, seed = self.num_steps if num_steps is None else num_steps, self.seed if seed is None else seed
        views = views_of(self.tta if tta is None else tta)
        with _evaluation_mode(self):
            sample_set = SampleSet.pool(
                [
                    self._draw_view(image, keys, samples[i :: len(views)], num_steps, seed, view)
                    for i, view in enumerate(views)
                ]
            )
            features = None if self.familiarity is None else self._features_of(image, keys, samples[:: len(views)])
        return replace(sample_set, features=features)

    def _draw_view(
        self, image: Tensor, keys: Sequence[str], samples: range, num_steps: int, seed: int, axes: tuple[int, ...]
    ) -> SampleSet:
        """Draw samples of images that are flipped along axes, and flip the samples back."""
        flipped, sample_sets = flip(image, axes), []
        for rows in self._chunks(keys, len(samples)):
            chunk_keys = keys[rows]
            generators = sample_generators(seed, chunk_keys[:1] if self.depth else chunk_keys, samples)
            sample_set = self.draw_samples(self._memory_format(self._as_seen(flipped[rows])), generators, num_steps)
            if self.depth:
                sample_set = sample_set.map(partial(cut_slices, number=len(chunk_keys)))
            sample_sets.append(sample_set)
        return SampleSet.cat(sample_sets).map(partial(flip, axes=axes))

    @torch.inference_mode()
    def features(self, image: Tensor) -> Tensor | None:
        """Return the features for the familiarity of images: means and deviations of the network's feature maps.

        Args:
            image: (B, C, H, W), in [-1, 1], on the model's grid; the slices of one volume for a network of volumes.

        Returns:
            (B, F), float32; the mean over the windows of the network. None if the network has no feature maps.
        """
        images = self._as_seen(image)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 the features would differ
            windows = [self.denoiser.image_maps(self._memory_format(images[part])) for part in self._parts(images)]
            if not windows[0]:
                return None
            return torch.stack([pool_maps(maps) for maps in windows]).mean(0).expand(len(image), -1)

    def _features_of(self, image: Tensor, keys: Sequence[str], samples: range) -> Tensor | None:
        """Return the features of images, chunk by chunk; see :meth:`features`."""
        chunks = [self.features(image[rows]) for rows in self._chunks(keys, len(samples))]
        computed = [features for features in chunks if features is not None]
        return torch.cat(computed) if computed else None

    def _chunks(self, keys: Sequence[str], samples: int) -> list[slice]:
        """Return the parts of a batch that are drawn together: one volume, or images within the memory budget."""
        if self.depth:
            return volumes_of(keys)
        per_pass = max(self._rows_per_pass() // samples, 1)
        return [slice(first, first + per_pass) for first in range(0, len(keys), per_pass)]

    def _as_seen(self, image: Tensor) -> Tensor:
        """Return images (B, C, H, W), joined to a volume (1, C, D, H, W) for a network of volumes."""
        return as_volume(image, self.depth) if self.depth else image

    def _parts(self, image: Tensor) -> list[Window]:
        """Return the windows of the network in images (B, C, H, W) or volumes (B, C, D, H, W)."""
        return self.tiling.parts(image.shape[2] if self.depth else None)

    def _rows_per_pass(self, size: Sequence[int] | None = None) -> int:
        """Return the number of images in one pass of the network, by the memory budget."""
        return max(self.pixels_per_pass // math.prod(size or self.image_size), 1)

    def _memory_format(self, image: Tensor) -> Tensor:
        """Return images in the memory format of the network."""
        return image.contiguous(memory_format=self._network_format) if self.channels_last else image

    @property
    def _network_format(self) -> torch.memory_format:
        return torch.channels_last_3d if self.depth else torch.channels_last

    # Fusing samples.

    def fuse_plainly(
        self, sample_set: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]
    ) -> Segmentation:
        """Fuse and refine samples; see the base class."""
        fused = self.fuse_by(self.fusion, sample_set, size)
        if self.refinement is None:
            return fused
        grid = (int(sample_set.samples.shape[-2]), int(sample_set.samples.shape[-1]))
        on_grid = self.fuse_by(self.fusion, sample_set, grid)
        try:
            refined = self.refinement(image, on_grid.samples, on_grid.probability, self.nested, keys)
        except ModuleNotFoundError as error:  # a checkpoint may come to a machine without a compiler
            warnings.warn(f"Masks are not refined: {error}", stacklevel=2)
            return fused
        probability = resize_soft(refined, size)
        return replace(fused, probability=probability, mask=probability > self.threshold, unrefined=fused.probability)

    def _voters(self, sample_set: SampleSet) -> tuple[Tensor, Tensor | None]:
        """Return the masks to fuse and their weights: the samples, and the prior if it has a share of the votes."""
        samples, prior = sample_set.samples, sample_set.prior
        if prior is None or not self.prior_share:
            return super()._voters(sample_set)
        weights = samples.new_ones(samples.shape[1]) if sample_set.weights is None else sample_set.weights.to(samples)
        prior_weight = weights.sum(0, keepdim=True) * self.prior_share / (1 - self.prior_share)
        return torch.cat([samples, prior[:, None]], 1), torch.cat([weights, prior_weight])


def sample_generators(seed: int, keys: Sequence[str], samples: range) -> Generators:
    """Return the generator of each sample of each image, by the samples' numbers."""
    return [[sample_generator(seed, key, s) for s in samples] for key in keys]


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and restore the mode of each submodule: frozen parts stay in evaluation mode."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode
