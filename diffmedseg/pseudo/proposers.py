"""Who proposes masks where none is learned from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.labels.deciding import Decided, Mask, MaskRule
from diffmedseg.errors import DataError
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.segmentation import resize_soft

_NOTHING = "masks chose nothing"


class Proposer(ABC):
    """Gives maps of evidence of disease.

    Attributes:
        title: What people call it.
        learned_from: What supervision it took, in words.
        used_masks: Whether it learned from masks.
        chosen_by: What masks chose of it, in words; None where they chose nothing.
        relative: Whether the level of its maps has to be found in each; else it is 0.5.
        refinement: Refines what is decided of its maps; None for nothing.
    """

    title: str
    learned_from: str
    used_masks: bool = False
    chosen_by: str | None = None
    relative: bool = True
    refinement: Refinement | None = None

    @abstractmethod
    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose.

        Args:
            image: (B, C, H, W), in [-1, 1].
            keys: One for each image, for its noise.

        Returns:
            (B, S, H, W), on the CPU, higher where there is more evidence of disease.
        """


class Luminance(Proposer):
    """Brightness, inverted where disease is dark: what needs no learning, and the baseline of all others.

    Args:
        rule: Says which channel and which polarity.
        info: The facts of the data.

    Raises:
        DataError: If the data has no such channel.
    """

    title = "luminance"
    learned_from = "nothing"

    def __init__(self, rule: MaskRule, info: DatasetInfo) -> None:
        if rule.channel is not None and rule.channel not in info.channels:
            channels = ", ".join(info.channels)
            raise DataError(f"mask_rule.channel is {rule.channel!r}; {info.title} has {channels}.")
        self._channel = None if rule.channel is None else info.channels.index(rule.channel)
        self._sign = -1.0 if rule.polarity == "darker" else 1.0

    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose; see the base class. S is 1."""
        shown = image.mean(1) if self._channel is None else image[:, self._channel]
        return self._sign * shown[:, None].cpu()


class OfModel(Proposer):
    """A trained model.

    Args:
        model: The model.
        info: The facts of the data.
        chosen_by: What masks chose of it, in words; None where they chose nothing.

    Raises:
        DataError: If the model takes other channels than the data has.
    """

    def __init__(self, model: Segmenter, info: DatasetInfo, chosen_by: str | None) -> None:
        if len(model.channels) != len(info.channels):
            takes, has = ", ".join(model.channels), ", ".join(info.channels)
            raise DataError(f"The model takes {takes}; {info.title} has {has}. Name a run on this data.")
        if chosen_by is None and model.learned_from.startswith("labels") and not model.learned_from.endswith(_NOTHING):
            chosen_by = "masks chose something of what it learned from"
        self.model, self.chosen_by = model, chosen_by
        self.title, self.learned_from, self.relative = model.title, model.learned_from, model.cuts_maps
        self.used_masks = model.learned_from.startswith("masks")
        self.refinement = model.refinement if model.cuts_maps else None

    def __call__(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Propose; see the base class. S is the model's number of samples where a rule cuts these, else 1."""
        if not self.relative:
            return self.model.segment(image, keys=keys).probability[:, :1].cpu()
        samples = self.model.sample(image, keys=keys).samples[:, :, 0]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return resize_soft(samples.float(), size).cpu()


@dataclass(frozen=True)
class Council:
    """Proposers whose soft maps are averaged, and what is decided of them by one rule.

    Attributes:
        proposers: At least one.
        rule: The facts of the data.
        refinement: Refines what the proposers say together; None for nothing.
        agreement: A mask is left out where the Dice of the masks of two proposers, each decided alone, is smaller.

    Raises:
        DataError: If agreement is asked of a single proposer.
    """

    proposers: Sequence[Proposer]
    rule: MaskRule
    refinement: Refinement | None
    agreement: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        if self.agreement and len(self.proposers) < 2:
            raise DataError("Agreement takes two proposers or more: name them, as --proposer luminance+border.")

    def soft_maps(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Return soft maps whose level is 0.5, (B, H, W), on the CPU, 0 outside of what is seen.

        Args:
            image: (B, C, H, W), in [-1, 1].
            keys: One for each image.
        """
        return self._fuse(image, keys, *self._opinions(image, keys))

    def decide(self, image: Tensor, keys: Sequence[str]) -> list[Decided]:
        """Decide on images; the arguments are those of :meth:`soft_maps`."""
        opinions, shown = self._opinions(image, keys)
        decided = [self.rule.decide(soft.numpy()) for soft in self._fuse(image, keys, opinions, shown)]
        if not self.agreement:
            return decided
        alone = [[self.rule.decide((maps.mean(0) * seen).numpy()).mask for maps, seen in zip(own, shown, strict=True)]
                 for own in opinions]  # fmt: skip
        return [self._object(one, masks) for one, *masks in zip(decided, *alone, strict=True)]

    def _opinions(self, image: Tensor, keys: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """Return the soft maps of each proposer, (B, S, H, W), and what of the images is seen, (B, H, W)."""
        seen = [self.rule.seen(one) for one in ((image + 1) / 2).cpu().numpy()]
        opinions = []
        for proposer in self.proposers:
            maps = proposer(image, keys).float()
            if proposer.relative:
                maps = torch.stack([
                    torch.stack([torch.from_numpy(self.rule.soften(one, where)) for one in own.numpy()])
                    for own, where in zip(maps, seen, strict=True)
                ])  # fmt: skip
            opinions.append(maps)
        return opinions, torch.stack([torch.from_numpy(one) for one in seen])

    def _fuse(self, image: Tensor, keys: Sequence[str], opinions: list[Tensor], shown: Tensor) -> Tensor:
        """Take the mean of all proposers, and refine it."""
        most = max(maps.shape[1] for maps in opinions)
        samples = torch.stack([maps.expand(-1, most, -1, -1) for maps in opinions]).mean(0)
        probability = samples.mean(1)
        if self.refinement is not None:
            refined = self.refinement(image, samples[:, :, None], probability[:, None], False, keys)
            probability = resize_soft(refined, (int(image.shape[-2]), int(image.shape[-1])))[:, 0].cpu()
        return probability * shown

    def _object(self, decided: Decided, masks: Sequence[Mask]) -> Decided:
        """Object to a mask where proposers disagree on it."""
        least = min(_dice(a, b) for a, b in combinations(masks, 2))
        if decided.objection is not None or least >= self.agreement:
            return decided
        return replace(decided, objection=f"proposers agree by a Dice of {least:.3f}, less than {self.agreement:g}")

    def supervision(self, true_masks: int) -> str:
        """Return what the masks took, in words that begin with ``labels`` unless a proposer learned from masks.

        Args:
            true_masks: Number of true masks that are added.
        """
        said = " and ".join(f"{one.title} (learned from {one.learned_from})" for one in self.proposers)
        kind = "masks" if any(one.used_masks for one in self.proposers) else "labels"
        added = f" and {true_masks} true mask{'s' * (true_masks > 1)}" if true_masks else ""
        chosen = "; ".join(one.chosen_by for one in self.proposers if one.chosen_by) or _NOTHING
        return f"{kind}{added}: pseudo masks of {said}; {chosen}"


def _dice(a: Mask, b: Mask) -> float:
    """Return the Dice of two masks; 0 where both are empty, since nothing is agreed on then."""
    total = int(a.sum() + b.sum())
    return float(2 * (a & b).sum() / total) if total else 0.0
