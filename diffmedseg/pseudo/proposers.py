"""Proposers of pseudo masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.labels.deciding import Decided, Mask, MaskRule
from diffmedseg.data.labels.supervision import (
    learned_from_pseudo_masks,
    masks_chose_nothing,
    supervision_of_pseudo_masks,
    used_masks,
)
from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.segmentation import resize_soft

_IMAGES = 16  # shown to the proposers at once; a volume has more slices


class Proposer(ABC):
    """Proposes maps of evidence of disease.

    Attributes:
        title: Name for people.
        learned_from: Its supervision, in words.
        used_masks: Whether it learned from masks.
        chosen_by: Influence of masks on its choice, in words; None without any.
        relative: Whether each map needs its own threshold; else the threshold is 0.5.
        refinement: Refinement of the decision; None for no refinement.
    """

    title: str
    learned_from: str
    used_masks: bool = False
    chosen_by: str | None = None
    relative: bool = True
    refinement: Refinement | None = None

    @abstractmethod
    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose masks.

        Args:
            image: (B, C, H, W), in [-1, 1].
            keys: Key of each image's noise.

        Returns:
            (B, S, H, W), on the CPU; higher values are more evidence of disease.
        """


class Luminance(Proposer):
    """Brightness, inverted if disease is dark. It needs no learning, and is the baseline of all other proposers.

    Args:
        rule: The rule with the channel and the polarity.
        info: The facts of the data.

    Raises:
        DataError: If the data has no such channel, or the rule does not say whether disease is darker or brighter.
    """

    title = "luminance"
    learned_from = "nothing"

    def __init__(self, rule: MaskRule, info: DatasetInfo) -> None:
        if rule.polarity is None:
            raise DataError(
                f"Luminance has to know whether disease is darker or brighter in images of {info.title}, and "
                "mask_rule.polarity is not set. Set it in the yaml of the data set, or choose another proposer."
            )
        if rule.channel is not None and rule.channel not in info.channels:
            channels = ", ".join(info.channels)
            raise DataError(f"mask_rule.channel is {rule.channel!r}; {info.title} has {channels}.")
        self._channel = None if rule.channel is None else info.channels.index(rule.channel)
        self._sign = -1.0 if rule.polarity == "darker" else 1.0

    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose; see the base class. S is 1."""
        brightness = image.mean(1) if self._channel is None else image[:, self._channel]
        return self._sign * brightness[:, None].cpu()


class OfModel(Proposer):
    """Proposes masks with a trained model.

    Args:
        model: The model.
        info: The facts of the data.
        chosen_by: Influence of masks on its choice, in words; None without any.

    Raises:
        DataError: If model and data have different channels.
    """

    def __init__(self, model: Segmenter, info: DatasetInfo, chosen_by: str | None) -> None:
        if len(model.channels) != len(info.channels):
            takes, has = ", ".join(model.channels), ", ".join(info.channels)
            raise DataError(f"The model takes {takes}; {info.title} has {has}. Name a run on this data.")
        of_pseudo = learned_from_pseudo_masks(model.learned_from)
        if chosen_by is None and of_pseudo and not masks_chose_nothing(model.learned_from):
            chosen_by = "masks chose something of what it learned from"
        self.model, self.chosen_by = model, chosen_by
        self.title, self.learned_from, self.relative = model.title, model.learned_from, model.cuts_maps
        self.used_masks = used_masks(model.learned_from)
        self.refinement = model.refinement if model.cuts_maps else None

    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose; see the base class. S is the model's number of samples if a rule thresholds the maps, else 1."""
        if not self.relative:
            return self.model.segment(image, keys=keys).probability[:, :1].cpu()
        samples = self.model.sample(image, keys=keys).samples[:, :, 0]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return resize_soft(samples.float(), size).cpu()


@dataclass(frozen=True)
class Council:
    """Averages the soft maps of proposers, and decides on the masks by one rule.

    Attributes:
        proposers: At least one proposer.
        rule: The rule that turns a map into a mask.
        refinement: Refinement of the averaged map; None for no refinement.
        agreement: A mask is left out if the separate masks of two proposers have a smaller Dice.

    Raises:
        DataError: If ``agreement`` is set for a single proposer.
    """

    proposers: Sequence[Proposer]
    rule: MaskRule
    refinement: Refinement | None
    agreement: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an agreement of a single proposer."""
        if self.agreement and len(self.proposers) < 2:
            raise DataError("--agreement needs two or more proposers, such as --proposer luminance+border.")

    def soft_maps(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Return soft maps with the level 0.5, (B, H, W), on the CPU; 0 outside of the visible field.

        Args:
            image: (B, C, H, W), in [-1, 1].
            keys: Key of each image's noise.
        """
        return self._fuse(image, keys, *self._opinions(image, keys))

    def decide(self, image: Tensor, keys: Sequence[str], positions: Sequence[int] | None = None) -> list[Decided]:
        """Decide on the masks of images.

        Args:
            image: (B, C, H, W), in [-1, 1].
            keys: Key of each image's noise.
            positions: Number of each image in its volume, if the images are all slices of one volume that may show
                disease, and the rule decides on slices together; None for single images.
        """
        maps, alone = [], []
        for first in range(0, len(keys), _IMAGES):
            part = slice(first, first + _IMAGES)
            opinions, areas = self._opinions(image[part], keys[part])
            maps.append(self._fuse(image[part], keys[part], opinions, areas))
            alone.append([batch.mean(1) * areas for batch in opinions])
        decided = self._decide_maps(torch.cat(maps), positions)
        if not self.agreement:
            return decided
        masks = [[one.mask for one in self._decide_maps(torch.cat(of_one), positions)]
                 for of_one in zip(*alone, strict=True)]  # fmt: skip
        return [self._check_agreement(fused, of_all) for fused, *of_all in zip(decided, *masks, strict=True)]

    def _decide_maps(self, maps: Tensor, positions: Sequence[int] | None) -> list[Decided]:
        """Decide on soft maps, (B, H, W), one by one or as slices of a volume."""
        if positions is None:
            return [self.rule.decide(soft.numpy()) for soft in maps]
        return self.rule.decide_slices(maps.numpy(), positions)

    def _opinions(self, image: Tensor, keys: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """Return the soft maps of each proposer, (B, S, H, W), and the visible field of the images, (B, H, W)."""
        fields = [self.rule.seen(values) for values in ((image + 1) / 2).cpu().numpy()]
        opinions = []
        for proposer in self.proposers:
            maps = proposer(image, keys).float()
            if proposer.relative:
                maps = torch.stack([
                    torch.stack([torch.from_numpy(self.rule.soften(sample, where)) for sample in samples.numpy()])
                    for samples, where in zip(maps, fields, strict=True)
                ])  # fmt: skip
            opinions.append(maps)
        return opinions, torch.stack([torch.from_numpy(field) for field in fields])

    def _fuse(self, image: Tensor, keys: Sequence[str], opinions: list[Tensor], areas: Tensor) -> Tensor:
        """Average the maps of all proposers, and refine the mean."""
        most = max(maps.shape[1] for maps in opinions)
        samples = torch.stack([maps.expand(-1, most, -1, -1) for maps in opinions]).mean(0)
        probability = samples.mean(1)
        if self.refinement is not None:
            refined = self.refinement(image, samples[:, :, None], probability[:, None], False, keys)
            probability = resize_soft(refined, (int(image.shape[-2]), int(image.shape[-1])))[:, 0].cpu()
        return probability * areas

    def _check_agreement(self, decided: Decided, masks: Sequence[Mask]) -> Decided:
        """Add an objection to a mask if proposers disagree on it."""
        least = min(_dice(a, b) for a, b in combinations(masks, 2))
        if decided.objection is not None or least >= self.agreement:
            return decided
        return replace(decided, objection=f"proposers agree by a Dice of {least:.3f}, less than {self.agreement:g}")

    def supervision(self, true_masks: int) -> str:
        """Return the supervision of the masks in words. It begins with ``labels`` unless a proposer learned from masks.

        Args:
            true_masks: Number of added true masks.
        """
        sources = " and ".join(f"{p.title} (learned from {p.learned_from})" for p in self.proposers)
        chosen_by = [p.chosen_by for p in self.proposers if p.chosen_by]
        masks = any(p.used_masks for p in self.proposers)
        return supervision_of_pseudo_masks(sources, masks, true_masks, chosen_by, self.rule.masks_chose)


def _dice(a: Mask, b: Mask) -> float:
    """Return the Dice of two masks; 0 if both are empty, since they agree on nothing."""
    total = int(a.sum() + b.sum())
    return float(2 * (a & b).sum() / total) if total else 0.0
