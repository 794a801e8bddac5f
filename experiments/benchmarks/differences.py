"""Differences of DiffSeg that were tried without gain, for pseudo_masks.py; see docs/results/diffseg.md."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffmedseg.diffusion import NoiseProcess
from diffmedseg.models.diffseg.denoiser import DISEASED, HEALTHY, NO_LABEL
from diffmedseg.models.diffseg.difference import (
    CounterfactualDifference,
    Difference,
    NoisePredictionDifference,
    OneStepDifference,
    PredictX0,
)
from diffmedseg.models.diffseg.segmenter import Polarity


class LikelihoodRatio(OneStepDifference):
    """The squared error of the healthy minus that of the diseased reconstruction, for each pixel.

    As in a diffusion classifier (Li et al. 2023, arXiv 2303.16203).
    """

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Compare; see the base class."""
        healthy, diseased = (predict(x_t, t, torch.full_like(t, label)) for label in (HEALTHY, DISEASED))
        return ((image - healthy).square() - (image - diseased).square()).mean(1, keepdim=True)


class LabDistance(OneStepDifference):
    """The distance between the healthy and the diseased reconstruction in Lab colour space."""

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Compare; see the base class."""
        from kornia.color import rgb_to_lab

        healthy, diseased = (
            rgb_to_lab((predict(x_t, t, torch.full_like(t, label)) + 1) / 2) for label in (HEALTHY, DISEASED)
        )
        return (healthy - diseased).norm(dim=1, keepdim=True)


class LabelResidual(OneStepDifference):
    """The reconstruction under a label, or without a label, minus the image.

    It shows the part of the counterfactual difference that does not come from the label.

    Args:
        lowest: Lowest noise level, in [0, T).
        highest: Highest noise level.
        label: The label.
    """

    def __init__(self, lowest: int, highest: int, label: int) -> None:
        super().__init__(lowest, highest)
        self.label = label

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Compare; see the base class."""
        return predict(x_t, t, torch.full_like(t, self.label)) - image


class GuidedCounterfactual(CounterfactualDifference):
    """The counterfactual difference, with guidance away from the diseased reconstruction.

    Args:
        lowest: Lowest noise level, in [0, T).
        highest: Highest noise level.
        guidance: Weight of the guidance; 1 for no guidance.
    """

    def __init__(self, lowest: int, highest: int, guidance: float) -> None:
        super().__init__(lowest, highest)
        self.guidance = guidance

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Compare; see the base class."""
        healthy, diseased = (predict(x_t, t, torch.full_like(t, label)) for label in (HEALTHY, DISEASED))
        return healthy + (self.guidance - 1) * (healthy - diseased) - image


class InversionDifference(Difference):
    """Inverts the image by DDIM without a label, generates it again as healthy, and subtracts the image.

    Wolleb et al. 2022 (arXiv 2203.04306) and Sanchez et al. 2022 (arXiv 2207.12268). It draws no noise.

    Args:
        start: Noise level at the end of the inversion, below T.
        guidance: Weight of the guidance; 1 for no guidance. Above 1, predictions move away from the prediction without
            a label.
    """

    def __init__(self, start: int, guidance: float) -> None:
        self.start, self.guidance = start, guidance

    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse a start that the process does not have, and training that hides no labels."""
        if self.start >= process.num_train_steps or not label_hidden:
            raise ValueError("Inversion takes a level of the process, and a label_dropout above 0 in training.")

    def __call__(
        self,
        predict: PredictX0,
        process: NoiseProcess,
        image: Tensor,
        generators: Sequence[torch.Generator],
        num_steps: int,
    ) -> Tensor:
        """Invert and generate in ``num_steps`` steps each; see the base class."""
        levels = torch.linspace(0, self.start, num_steps + 1).round().int().tolist()
        x_t = x_0 = image
        chain = [(*pair, NO_LABEL) for pair in pairwise(levels)] + [(*pair, HEALTHY) for pair in pairwise(levels[::-1])]
        for level, following, label in chain:
            t = torch.full((len(image),), level, device=image.device)
            x_0 = predict(x_t, t, torch.full_like(t, label))
            if label == HEALTHY and self.guidance != 1:
                free = predict(x_t, t, torch.full_like(t, NO_LABEL))
                x_0 = (free + self.guidance * (x_0 - free)).clamp(-1, 1)
            signal, noise = process.signal_and_noise(level)
            x_t = process.add_noise(x_0, (x_t - signal * x_0) / noise, torch.full_like(t, following))
        return x_0 - image


#: The differences to try with each run, and the polarity of their maps.
TRIES: dict[str, tuple[Difference, Polarity]] = {
    **{
        f"healthy less {other}, level {level}": (kind(level, level), "either")
        for other, kind in (("diseased", NoisePredictionDifference), ("image", CounterfactualDifference))
        for level in (50, 100, 200, 300, 500)
    },
    "darker: healthy less diseased, level 200": (NoisePredictionDifference(200, 200), "darker"),
    "darker: healthy less image, level 200": (CounterfactualDifference(200, 200), "darker"),
    "without a label less image, level 200": (LabelResidual(200, 200, NO_LABEL), "either"),
    "diseased less image, level 200": (LabelResidual(200, 200, DISEASED), "either"),
    "healthy less image, level 200, guidance 2": (GuidedCounterfactual(200, 200, 2.0), "either"),
    "healthy less image, level 200, guidance 3": (GuidedCounterfactual(200, 200, 3.0), "either"),
    "likelihood ratio, level 200": (LikelihoodRatio(200, 200), "darker"),
    "likelihood ratio, level 500": (LikelihoodRatio(500, 500), "darker"),
    "Lab distance of both labels, level 200": (LabDistance(200, 200), "darker"),
    "DDIM inversion to 300": (InversionDifference(300, 1.0), "either"),
    "DDIM inversion to 300, guidance 3": (InversionDifference(300, 3.0), "either"),
}
