"""How healthy and diseased reconstructions of an image are compared; all noise is shared by the two."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.diffusion import NoiseProcess
from diffmedseg.keyed_random import Generator, keyed_integers, keyed_normal
from diffmedseg.models.diffseg.denoiser import DISEASED, HEALTHY, NO_LABEL


class PredictX0(Protocol):
    """Predicts x_0 (rows, C, H, W), in [-1, 1], from x_t, t (rows,) and label (rows,), in as few passes as it may."""

    def __call__(self, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor: ...  # noqa: D102


class Difference(Configurable, ABC):
    """Takes, from images and keyed noise, a healthy reconstruction less a diseased one."""

    @abstractmethod
    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse a process, a number of channels or a training that it cannot work with.

        Args:
            process: The noise process.
            channels: Channels of the image.
            label_hidden: Whether training hides labels at times.

        Raises:
            ValueError: Saying what would fit.
        """

    @abstractmethod
    def __call__(
        self,
        predict: PredictX0,
        process: NoiseProcess,
        image: Tensor,
        generators: Sequence[Generator],
        num_steps: int,
    ) -> Tensor:
        """Compare.

        Args:
            predict: The network.
            process: The noise process.
            image: (rows, C, H, W), in [-1, 1].
            generators: One per row, the only source of randomness.
            num_steps: How many comparisons, or steps of a chain, make up one map.

        Returns:
            (rows, C, H, W), healthy less diseased; one channel where channels are taken together already.
        """


class OneStepDifference(Difference):
    """Noises the image and denoises it at once, at levels of its own.

    Args:
        lowest: The lowest noise level, of T.
        highest: The highest; levels are drawn evenly between them.
    """

    def __init__(self, lowest: int = 100, highest: int = 300) -> None:
        if not 0 <= lowest <= highest:
            raise ValueError(f"Levels from {lowest} to {highest}: the lowest has to be at least 0, and not above.")
        self.lowest, self.highest = lowest, highest

    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse levels that the process does not have."""
        _check_level(self.highest, process)

    def __call__(
        self,
        predict: PredictX0,
        process: NoiseProcess,
        image: Tensor,
        generators: Sequence[Generator],
        num_steps: int,
    ) -> Tensor:
        """Compare at ``num_steps`` levels; see the base class."""
        noisy, levels = [], []
        for _ in range(num_steps):
            t = self.lowest + keyed_integers(self.highest - self.lowest + 1, generators).to(image.device)
            noisy.append(process.add_noise(image, keyed_normal(image.shape[1:], generators, image.device), t))
            levels.append(t)
        x_t, t = torch.stack(noisy, 1).flatten(0, 1), torch.stack(levels, 1).flatten()
        difference = self.compare(predict, x_t, t, image.repeat_interleave(num_steps, 0))
        return difference.reshape(len(image), num_steps, *image.shape[1:]).mean(1)

    @abstractmethod
    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Compare at one level.

        Args:
            predict: The network.
            x_t: The noisy images, (rows, C, H, W).
            t: Their levels, (rows,).
            image: The images, (rows, C, H, W).

        Returns:
            (rows, C, H, W).
        """


class NoisePredictionDifference(OneStepDifference):
    """The paper's: noise the image once, denoise it under either label (Shuai et al. 2024, Fig. 1).

    With noise shared, the difference of the predicted noises is that of the predicted clean images but for a factor of
    the level. Several comparisons are averaged in the space of images, where levels weigh alike.
    """

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Return the healthy reconstruction less the diseased one; see the base class."""
        healthy, diseased = _under_either_label(predict, x_t, t)
        return healthy - diseased


class CounterfactualDifference(OneStepDifference):
    """The healthy reconstruction less the image itself: what would have to change for the image to be healthy.

    As in Wolleb et al. 2022 (arXiv 2203.04306) and Sanchez et al. 2022 (Diff-SCM, arXiv 2207.12268), in one step in
    place of a chain. The image is sharp where a diseased reconstruction is blurred, so the map keeps edges. It takes
    half the network evaluations of the paper's difference.
    """

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Return the healthy reconstruction less the image; see the base class."""
        return predict(x_t, t, torch.full_like(t, HEALTHY)) - image


class PartialDenoisingDifference(Difference):
    """Noises the image to one level and denoises it all the way, under either label.

    As in Hu et al. 2023 (MICCAI, arXiv 2306.03878) the two chains start from the same noise and are deterministic
    (DDIM); as in Sanchez et al. 2022 (Diff-SCM, arXiv 2207.12268) classifier-free guidance drives them apart.

    Args:
        start: The level to start from, of T.
        guidance: 1 for none; above, predictions are driven away from those without a label.
    """

    def __init__(self, start: int = 400, guidance: float = 1.0) -> None:
        if start < 1:
            raise ValueError(f"start is {start}; a chain begins at 1 or above.")
        self.start, self.guidance = start, guidance

    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse a start that the process does not have, and guidance by predictions that were not trained."""
        _check_level(self.start, process)
        if self.guidance != 1 and not label_hidden:
            raise ValueError(f"guidance is {self.guidance}, which needs a label_dropout above 0 in training.")

    def __call__(
        self,
        predict: PredictX0,
        process: NoiseProcess,
        image: Tensor,
        generators: Sequence[Generator],
        num_steps: int,
    ) -> Tensor:
        """Compare the ends of two chains of ``num_steps`` steps; see the base class."""
        eps = keyed_normal(image.shape[1:], generators, image.device)
        levels = torch.linspace(self.start, 0, num_steps + 1).round().int().tolist()
        label = torch.tensor([HEALTHY, DISEASED], device=image.device).repeat(len(image))
        t = torch.full_like(label, levels[0])
        x_t = process.add_noise(image.repeat_interleave(2, 0), eps.repeat_interleave(2, 0), t)
        x_0 = x_t
        for level, following in pairwise(levels):
            x_0 = self._guided(predict, x_t, torch.full_like(t, level), label)
            signal, noise = process.signal_and_noise(level)
            x_t = process.add_noise(x_0, (x_t - signal * x_0) / noise, torch.full_like(t, following))
        return x_0[::2] - x_0[1::2]

    def _guided(self, predict: PredictX0, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        if self.guidance == 1:
            return predict(x_t, t, label)
        both = torch.stack([label, torch.full_like(label, NO_LABEL)], 1).flatten()
        x_0 = predict(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), both)
        labelled, free = x_0[::2], x_0[1::2]
        return (free + self.guidance * (labelled - free)).clamp(-1, 1)


class ReleasedDifference(Difference):
    """The released code's arithmetic (run.py), for comparison with it.

    A residual is what a network takes away from x_t at t = 0, as grey levels; the map is the healthy residual less 1.5
    times the diseased one. The code draws noise for each network; here it is shared, which at t = 0 changes little.
    """

    _DISEASED_WEIGHT = 1.5
    _LUMA = (0.299, 0.587, 0.114)

    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse what is no colour picture."""
        if channels != len(self._LUMA):
            raise ValueError(f"The released code works on red, green and blue; these images have {channels} channels.")

    def __call__(
        self,
        predict: PredictX0,
        process: NoiseProcess,
        image: Tensor,
        generators: Sequence[Generator],
        num_steps: int,
    ) -> Tensor:
        """Compare once; see the base class. ``num_steps`` changes nothing."""
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        x_t = process.add_noise(image, keyed_normal(image.shape[1:], generators, image.device), t)
        healthy, diseased = (self.grey_residual(x_t - x_0) for x_0 in _under_either_label(predict, x_t, t))
        return self._DISEASED_WEIGHT * diseased - healthy

    def grey_residual(self, residual: Tensor) -> Tensor:
        """Turn a residual (B, 3, H, W) in about [-1, 1] to grey levels (B, 1, H, W), the least of each image 0."""
        levels = (127.5 * (residual + 1)).trunc()
        grey = torch.einsum("bchw,c->bhw", levels, levels.new_tensor(self._LUMA))[:, None]
        return grey - grey.amin((-2, -1), keepdim=True)


def _under_either_label(predict: PredictX0, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Predict x_0 of the same noisy images healthy and diseased, together."""
    label = torch.tensor([HEALTHY, DISEASED]).to(x_t.device).repeat(len(x_t))
    x_0 = predict(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), label)
    return x_0[::2], x_0[1::2]


def _check_level(level: int, process: NoiseProcess) -> None:
    if level >= process.num_train_steps:
        raise ValueError(f"Level {level} is beyond the process, which has {process.num_train_steps}.")
