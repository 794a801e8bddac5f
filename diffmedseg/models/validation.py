"""The score of a validation, which selects checkpoints, and a check for models that find nothing."""

import warnings

import torch
from torch import Tensor, nn

from diffmedseg.data.batch import Batch
from diffmedseg.metrics import ForegroundCount, ForegroundDice, GeneralizedEnergyDistance
from diffmedseg.segmentation import Segmentation, resize_soft
from diffmedseg.wording import count

_RATERS, _MASK, _PRIOR = range(3)
_NAMES = {_MASK: "fused mask", _PRIOR: "condition network's own mask"}


class ValidationScore(nn.Module):
    """The score that selects checkpoints, ``val/score``. Higher is better, and empty masks get no high score.

    If images have several raters, the score is 1 - unbiased GED over these images. Empty masks then have a large
    distance to each rater who outlined something. A model with a single sample has the GED of a set of equal samples.

    Otherwise the score is the mean Dice of cases and regions whose fused mask or reference has foreground. Plain Dice
    counts two empty masks as 1, so that a model that finds nothing would win if most references are empty.

    The images have the size of the data module's batches: the model's grid with the project's data modules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice, self.distance, self.foreground = ForegroundDice(), GeneralizedEnergyDistance(), ForegroundCount(3)

    def reset(self) -> None:
        """Reset the score."""
        for metric in (self.dice, self.distance, self.foreground):
            metric.reset()

    def update(self, segmentation: Segmentation, batch: Batch) -> None:
        """Add the images of a batch; the slices of a case stand together."""
        raters, valid = batch["raters"].bool(), batch["rater_valid"]
        self.dice.update(segmentation.mask, batch["mask"].bool(), batch["case"])
        self.foreground.update(_RATERS, raters & valid[:, :, None, None, None])
        self.foreground.update(_MASK, segmentation.mask)
        if segmentation.prior is not None:
            self.foreground.update(_PRIOR, segmentation.prior > 0.5)
        several = valid.sum(1) > 1
        if several.any():
            samples, size = segmentation.samples[several], (int(raters.shape[-2]), int(raters.shape[-1]))
            soft = samples if samples.shape[-2:] == raters.shape[-2:] else _resize(samples, size)
            self.distance.unbiased = soft.shape[1] > 1
            self.distance.update(soft > 0.5, raters[several], valid[several])

    def compute(self) -> Tensor:
        """Return the score over all images of all processes; all processes have to call this method."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*called before the ``update``")  # as with one rater
            distance, dice = self.distance.compute(), self.dice.compute()
        return torch.where(distance.isnan(), dice, 1 - distance)

    def find_empty_answers(self) -> list[str]:
        """Describe the kinds of mask that are empty in all images although raters outlined something.

        All processes have to call this method.
        """
        images, filled = self.foreground.compute().tolist()
        if not filled[_RATERS]:
            return []
        return [
            f"The {name} is empty in {count(images[kind], 'validation image')}, which is all of them. Raters outlined "
            f"something in {filled[_RATERS]}."
            for kind, name in _NAMES.items()
            if images[kind] and not filled[kind]
        ]


def _resize(samples: Tensor, size: tuple[int, int]) -> Tensor:
    return resize_soft(samples.flatten(0, 1).float(), size).reshape(*samples.shape[:3], *size)
