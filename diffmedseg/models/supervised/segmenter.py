"""The supervised baseline: a network that is trained to predict the mask directly."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.diffusion.loss import DiceOver, row_dice_loss, weigh_pixels
from diffmedseg.models.denoiser import Denoiser
from diffmedseg.models.drawing import Generators
from diffmedseg.models.graph_sampler import GraphSampler
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.targets import training_targets
from diffmedseg.models.tiling import Window, blend
from diffmedseg.segmentation import SampleSet


class SupervisedSegmenter(DiffusionSegmenter):
    """Predicts the mask directly. It is trained with cross-entropy and soft Dice, and has no noise.

    All samples of an image are the same mask.

    Args:
        denoiser: Any network whose condition has a prior, such as the networks of
            :mod:`diffmedseg.models.supervised.networks`.
        dice_over: Pixels of each soft Dice: ``image``, or ``batch`` if many masks are empty; see
            :func:`~diffmedseg.diffusion.loss.row_dice_loss`.
        kwargs: The arguments of :class:`~diffmedseg.models.DiffusionSegmenter`, by name.
    """

    name = "supervised"

    def __init__(self, denoiser: Denoiser, dice_over: DiceOver = "image", **kwargs: Any) -> None:
        super().__init__(denoiser, **kwargs)
        self.dice_over = dice_over

    @property
    def rewards_empty_masks(self) -> bool:
        """Whether the Dice term is per image."""
        return self.dice_over == "image"

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy plus the soft Dice loss of the prior."""
        targets = training_targets(batch, "one", skip_empty=False)
        logits, mask, pixels = self._logits(batch["image"]), targets.mask, targets.pixels
        with torch.autocast(logits.device.type, enabled=False):
            cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
            dice = row_dice_loss(logits.sigmoid(), mask, self.dice_over, pixels=pixels)
            return weigh_pixels(cross_entropy, pixels).mean() + dice.mean()

    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        """Repeat the network's mask; see the base class."""
        sample = self._draw_one(self._parts(image), image, {}).samples
        return SampleSet(sample.expand(-1, len(generators[0]), *sample.shape[2:]))

    def graph_sampler(self, num_steps: int) -> GraphSampler:
        """Return a function from images to the network's mask, without noise."""
        return GraphSampler((), partial(self._draw_one, self.tiling.parts()))

    def _draw_one(self, parts: Sequence[Window], image: Tensor, noise: Mapping[str, Tensor]) -> SampleSet:
        masks = (self._logits(self._memory_format(image[part])).sigmoid() for part in parts)
        return SampleSet(blend(parts, masks, image.shape[2:])[:, None])

    def _logits(self, image: Tensor) -> Tensor:
        prior = self.denoiser.encode(image).prior
        if prior is None:
            raise ValueError(
                f"{type(self.denoiser).__name__} has no mask of its own to train directly; "
                "use ResidualUNet or SMPNetwork."
            )
        return prior.float()
