"""Several models that segment together."""

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

#: What members have to share, in words, and the attribute that says it.
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

    Sample s is drawn by member s modulo M, of M members, with the noise that the member has for its sample s. Each
    member fuses and refines its own samples, with the vote of its own prior. The probability is the mean over the
    members, and the threshold the mean of their thresholds.

    An ensemble has no calibration, contours and intervals of area: those of a member hold for its own probability
    alone, and the probability before a member's calibration is averaged. Familiarity is that of
    :class:`~diffmedseg.familiarity.JointFamiliarity`, of the members that have one.

    Args:
        members: By name. They have to agree in channels, regions and the kind of images. Architecture, grid, number of
            steps and seed may differ: an ensemble works on the largest grid, and each member on its own.

    Raises:
        ValueError: If members do not agree; the message names two of them, and what differs.
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
        """Name the members' networks."""
        return f"Ensemble of {', '.join(model.title for model in self._models)}"

    @property
    def papers(self) -> tuple[str, ...]:
        """What describes the members' methods."""
        return tuple(dict.fromkeys(chain.from_iterable(model.papers for model in self._models)))

    def fewest_samples(self, tta: TTA | None = None) -> int:
        """Return the number of members times that of views; see the base class."""
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
        every, drawn = len(self._models), []
        for i, model in enumerate(self._models):
            own = image if model.image_size == self.image_size else to_grid(image, model.image_size)
            drawn.append(model.draw(own, keys, samples[i::every], num_steps, seed, tta))
        pooled = SampleSet.pool([part.map(self._enlarge) for part in drawn])
        return SampleSet(pooled.samples, pooled.prior, pooled.features, pooled.weights, tuple(drawn))

    def _enlarge(self, maps: Tensor) -> Tensor:
        """Resize what a member drew, (B, S, K, h, w) or (B, K, h, w), to the ensemble's grid."""
        resized = resize_soft(maps.reshape(-1, *maps.shape[-3:]), self.image_size)
        return resized.reshape(*maps.shape[:-2], *self.image_size)

    def fuse_plainly(self, drawn: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]) -> Segmentation:
        """Let each member fuse what it drew, and average the probabilities; see the base class."""
        parts = [
            model.fuse_plainly(own, size, _at_grid(image, own.samples), keys)
            for model, own in zip(self._models, drawn.members, strict=True)
        ]
        probability = torch.stack([part.probability for part in parts]).mean(0)
        unrefined = None
        if any(part.unrefined is not None for part in parts):
            before = [part.probability if part.unrefined is None else part.unrefined for part in parts]
            unrefined = torch.stack(before).mean(0)
        pooled = self.fuse_by(self.fusion, drawn, size)
        mask = probability > self.threshold
        return replace(pooled, probability=probability, mask=mask, unrefined=unrefined)


def _at_grid(image: Tensor, samples: Tensor) -> Tensor:
    """Bring images to the grid of a member's samples."""
    grid = (int(samples.shape[-2]), int(samples.shape[-1]))
    return image if image.shape[-2:] == grid else to_grid(image, grid)


def _check_agreement(members: Mapping[str, DiffusionSegmenter]) -> None:
    """Refuse members that find or take different things.

    Raises:
        ValueError: Naming two members, and what differs.
    """
    if not members:
        raise ValueError("An ensemble needs at least one member.")
    (first, model), *others = members.items()
    for name, other in others:
        for what, attribute in _SHARED.items():
            one, another = getattr(model, attribute), getattr(other, attribute)
            if one != another:
                raise ValueError(
                    f"{first} and {name} cannot form an ensemble: {what} are {_shown(one)} and {_shown(another)}. "
                    f"Leave one of them out, or predict with each by itself."
                )


def _shown(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
