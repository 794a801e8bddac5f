"""Ensembles of models."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from diffmedseg.familiarity import JointFamiliarity
from diffmedseg.metrics import Dice
from diffmedseg.models.batches import to_grid
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.models.views import TTA
from diffmedseg.postprocessing.fusion import MeanFusion
from diffmedseg.segmentation import SampleSet, Segmentation, resize_soft

#: What members have to share, in words, and the attribute that holds it.
_SHARED = {
    "their channels": "channels",
    "their regions": "regions",
    "their settings of nested regions": "nested",
    "their settings of windows (cropped)": "cropped",
    "the ranges of values that become black and white": "value_range",
    "how slices become images": "slice_input",
    "how noise is alike in slices": "slice_correlation",
}


class Ensemble(Segmenter):
    """Pools the samples of several models, and averages their probabilities with equal weight.

    With M members, member s modulo M draws sample s, with the noise of the member's own sample s. Each member fuses and
    refines its own samples, with the vote of its own prior. The probability is the mean over the members, and the
    threshold is the mean of their thresholds.

    An ensemble has no calibration, contours and intervals of area: they hold for the probability of a single member.
    The ensemble averages the probabilities before calibration. The familiarity is a
    :class:`~diffmedseg.familiarity.JointFamiliarity` of the members with a familiarity.

    Args:
        members: The members, by name. Channels, regions and the kind of images have to be equal. Architecture, grid,
            number of steps and seed may differ: the ensemble works on the largest grid, and each member on its own.

    Raises:
        ValueError: If members differ; the message names two of them, and the difference.
    """

    name = "ensemble"
    num_steps: int | None = None
    seed: int | None = None
    tta: TTA | None = None

    def __init__(self, members: Mapping[str, DiffusionSegmenter]) -> None:
        super().__init__()
        _check_agreement(members)
        self._names, models = tuple(members), tuple(members.values())
        self.models = nn.ModuleList(models)
        first = models[0]
        self.channels, self.regions, self.nested = first.channels, first.regions, first.nested
        self.cropped, self.value_range, self.slice_input = first.cropped, first.value_range, first.slice_input
        self.slice_correlation = first.slice_correlation
        self.image_size = (max(model.image_size[0] for model in models), max(model.image_size[1] for model in models))
        self.num_samples = max(len(models), *(model.num_samples for model in models))
        self.threshold = sum(model.decision_level for model in models) / len(models)
        self.fusion, self.refinement, self.calibration, self.conformal = MeanFusion(), None, None, None
        familiar = [model.familiarity for model in models if model.familiarity is not None]
        self.familiarity = JointFamiliarity(familiar) if familiar else None
        self.learned_from = "; ".join(dict.fromkeys(model.learned_from for model in models))
        self.test_dice = nn.ModuleList(Dice() for _ in self.regions)
        self.eval()

    @property
    def members(self) -> Mapping[str, Segmenter]:
        """The members by name."""
        return dict(zip(self._names, self._models, strict=True))

    @property
    def _models(self) -> Sequence[DiffusionSegmenter]:
        return cast(Sequence[DiffusionSegmenter], self.models)

    @property
    def title(self) -> str:
        """The names of the members' networks."""
        return f"Ensemble of {', '.join(model.title for model in self._models)}"

    @property
    def papers(self) -> tuple[str, ...]:
        """Papers that describe the members' methods."""
        return tuple(dict.fromkeys(chain.from_iterable(model.papers for model in self._models)))

    def fewest_samples(self, tta: TTA | None = None) -> int:
        """Return the number of members times the number of views; see the base class."""
        tta = self.tta if tta is None else tta
        return len(self._models) * max(model.fewest_samples(tta) for model in self._models)

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
        """Draw samples, dealt to the members in turn; see the base class."""
        members = []
        for i, model in enumerate(self._models):
            resized = image if model.image_size == self.image_size else to_grid(image, model.image_size)
            members.append(model.draw(resized, keys, samples[i :: len(self._models)], num_steps, seed, tta))
        pooled = SampleSet.pool([sample_set.map(self._enlarge) for sample_set in members])
        return SampleSet(pooled.samples, pooled.prior, pooled.features, pooled.weights, tuple(members))

    def _enlarge(self, maps: Tensor) -> Tensor:
        """Resize the maps of a member, (B, S, K, h, w) or (B, K, h, w), to the ensemble's grid."""
        resized = resize_soft(maps.reshape(-1, *maps.shape[-3:]), self.image_size)
        return resized.reshape(*maps.shape[:-2], *self.image_size)

    def fuse_plainly(
        self, sample_set: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]
    ) -> Segmentation:
        """Have each member fuse its own samples, and average the probabilities; see the base class."""
        parts = [
            model.fuse_plainly(member_set, size, _at_grid(image, member_set.samples), keys)
            for model, member_set in zip(self._models, sample_set.members, strict=True)
        ]
        probability = torch.stack([part.probability for part in parts]).mean(0)
        unrefined = None
        if any(part.unrefined is not None for part in parts):
            probabilities = [part.probability if part.unrefined is None else part.unrefined for part in parts]
            unrefined = torch.stack(probabilities).mean(0)
        pooled = self.fuse_by(self.fusion, sample_set, size)
        mask = probability > self.threshold
        return replace(pooled, probability=probability, mask=mask, unrefined=unrefined)


def _at_grid(image: Tensor, samples: Tensor) -> Tensor:
    """Resize images to the grid of a member's samples."""
    grid = (int(samples.shape[-2]), int(samples.shape[-1]))
    return image if image.shape[-2:] == grid else to_grid(image, grid)


def _check_agreement(members: Mapping[str, DiffusionSegmenter]) -> None:
    """Check that members have the same kind of images and regions.

    Raises:
        ValueError: If two members differ; the message names them and the difference.
    """
    if not members:
        raise ValueError("An ensemble needs at least one member.")
    (first_name, first), *remaining = members.items()
    for name, model in remaining:
        for noun, attribute in _SHARED.items():
            expected, value = getattr(first, attribute), getattr(model, attribute)
            if value != expected:
                raise ValueError(
                    f"{first_name} and {name} cannot form an ensemble: {noun} are {_as_text(expected)} and "
                    f"{_as_text(value)}. Leave one of them out, or predict with each by itself."
                )


def _as_text(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
