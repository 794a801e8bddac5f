"""Stochastic Segmentation Networks: many sample masks from a single pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.models.denoiser import Denoiser
from diffmedseg.models.drawing import Generators
from diffmedseg.models.energy import energy_distance, energy_generators
from diffmedseg.models.graph_sampler import GraphSampler
from diffmedseg.models.low_rank_normal import (
    MC_SAMPLES,
    LowRankNormal,
    NormalNoise,
    log_likelihoods,
    monte_carlo_loss,
    normal_inputs,
    training_samples,
)
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.targets import Raters, hide_unsure, masks_needed, training_targets
from diffmedseg.models.tiling import Window, blend
from diffmedseg.segmentation import SampleSet


class SSNSegmenter(DiffusionSegmenter):
    """Learns a low-rank normal distribution over the logits of masks (Monteiro et al. 2020, arXiv 2006.06015).

    A sample is a joint draw of all logits. One pass of the network gives the distribution and all samples of an image;
    ``num_steps`` has no effect. The probability is the mean of the samples, because the expectation of a sigmoid has no
    closed form. The prior of results is the sigmoid of the mean, which is the median of each pixel.

    Args:
        denoiser: A network whose condition is a distribution, such as :class:`~diffmedseg.models.StochasticUNet`.
        mc_samples: Samples per image in the Monte-Carlo estimate of the training likelihood, in antithetic pairs as in
            the released code. The paper and the released configurations have 20. A mask unlike all samples has a high
            loss, so with 20 samples the model learns to draw rare masks too often. With 100 it draws them less often
            (experiments/benchmarks/rare_mode.py).
        raters: Target masks of an image: the mask of ``one`` rater, who is drawn anew each time, or the masks of
            ``all`` raters.
        energy_weight: Weight of the energy term of the loss: the unbiased GED between a few samples and all raters of
            an image. 0 for no energy term. See :func:`~diffmedseg.models.energy.energy_distance`.
        energy_samples: Samples of each image in the energy term, at least 2.
        kwargs: The arguments of :class:`~diffmedseg.models.DiffusionSegmenter`, by name.

    Raises:
        ValueError: If ``mc_samples`` is odd or not positive.
    """

    name = "ssn"

    def __init__(
        self,
        denoiser: Denoiser,
        mc_samples: int = MC_SAMPLES,
        raters: Raters = "one",
        energy_weight: float = 0.0,
        energy_samples: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(denoiser, **kwargs)
        self.needs = masks_needed(raters, energy_weight, energy_samples)
        self.raters, self.energy_weight, self.energy_samples = raters, energy_weight, energy_samples
        if mc_samples < 2 or mc_samples % 2:
            raise ValueError(f"mc_samples is {mc_samples}; samples come in pairs: give an even number, at least 2.")
        self.mc_samples = mc_samples

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the Monte-Carlo likelihood of the raters' masks, plus the weighted energy term."""
        normal, targets = self._normal(batch["image"]), training_targets(batch, self.raters, skip_empty=False)
        mask, draws = targets.mask, batch["draw"]
        logits = training_samples(normal, self.seed, draws, self.mc_samples)
        logits = logits.repeat_interleave(len(mask) // len(draws), 0)
        loss = monte_carlo_loss(log_likelihoods(logits, mask, pixels=targets.pixels), mask[0].numel())
        if not self.energy_weight:
            return loss
        generators = energy_generators(self.seed, draws, self.energy_samples)
        samples = hide_unsure(normal.sample(NormalNoise.draw(generators, normal)).sigmoid(), batch)
        raters = hide_unsure(batch["raters"], batch)
        energy = self.energy_weight * energy_distance(samples, raters, batch["rater_valid"])
        self.log_training("train/energy_loss", energy, batch)
        return loss + energy

    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        """Draw S masks per image; see the base class. Windows share the noise."""
        normal = self._whole_normal(image, self.tiling.parts())
        return self._sample_set(normal, NormalNoise.draw(generators, normal))

    def graph_sampler(self, num_steps: int) -> GraphSampler:
        """Return a function that maps images, latents and pixel noise to masks; see the base class."""
        parts = self.tiling.parts()

        def draw(image: Tensor, noise: Mapping[str, Tensor]) -> SampleSet:
            return self._sample_set(self._whole_normal(image, parts), NormalNoise(noise["latents"], noise["pixels"]))

        normal = self._empty_condition(parts[0]).normal
        return GraphSampler(() if normal is None else normal_inputs(normal, self.image_size), draw)

    def _whole_normal(self, image: Tensor, parts: Sequence[Window]) -> LowRankNormal:
        normals = [self._normal(self._memory_format(image[part])) for part in parts]
        return LowRankNormal.merge(normals, lambda maps: blend(parts, maps, self.image_size))

    def _sample_set(self, normal: LowRankNormal, noise: NormalNoise) -> SampleSet:
        return SampleSet(normal.sample(noise).sigmoid(), normal.mean.sigmoid())

    def _normal(self, image: Tensor) -> LowRankNormal:
        normal = self.denoiser.encode(image).normal
        if normal is None:
            raise ValueError(f"{type(self.denoiser).__name__} gives no distribution of masks: use StochasticUNet.")
        return normal
