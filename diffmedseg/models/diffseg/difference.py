"""Ways to compare the healthy and the diseased reconstruction of an image. Both have the same noise."""

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
    """Predicts x_0 (rows, C, H, W), in [-1, 1], from x_t, t (rows,) and label (rows,), in as few passes as allowed."""

    def __call__(self, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor: ...  # noqa: D102


class Difference(Configurable, ABC):
    """Computes the healthy minus the diseased reconstruction of images, with keyed noise."""

    @abstractmethod
    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse an unsuitable noise process, number of channels or training.

        Args:
            process: The noise process.
            channels: Channels of the image.
            label_hidden: Whether training hides some labels.

        Raises:
            ValueError: If any of them is unsuitable; the message says what is expected.
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
        """Compare the reconstructions.

        Args:
            predict: The network.
            process: The noise process.
            image: (rows, C, H, W), in [-1, 1].
            generators: One generator per row, the only source of randomness.
            num_steps: Number of comparisons, or of steps of a chain, per map.

        Returns:
            (rows, C, H, W), healthy minus diseased; (rows, 1, H, W) if the method combines the channels.
        """


class OneStepDifference(Difference):
    """Adds noise to the image, and denoises it in one step.

    Args:
        lowest: Lowest noise level, in [0, T).
        highest: Highest noise level. Levels are drawn uniformly between the two.
    """

    def __init__(self, lowest: int = 100, highest: int = 300) -> None:
        if not 0 <= lowest <= highest:
            raise ValueError(f"Levels are {lowest} to {highest}; expected 0 or more, and the lower level first.")
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
        """Compare at the level of each row.

        Args:
            predict: The network.
            x_t: The noisy images, (rows, C, H, W).
            t: The noise levels, (rows,).
            image: The images, (rows, C, H, W).

        Returns:
            (rows, C, H, W).
        """


class NoisePredictionDifference(OneStepDifference):
    """The paper's difference: denoise the same noisy image under either label (Shuai et al. 2024, Fig. 1).

    Both have the same noise, so the difference of the predicted noises equals the difference of the predicted clean
    images, except for a factor that depends on the level. Several comparisons are averaged as images, which gives all
    levels the same weight.
    """

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Return the healthy minus the diseased reconstruction; see the base class."""
        healthy, diseased = _under_either_label(predict, x_t, t)
        return healthy - diseased


class CounterfactualDifference(OneStepDifference):
    """The healthy reconstruction minus the image: the change that would make the image healthy.

    As in Wolleb et al. 2022 (arXiv 2203.04306) and Sanchez et al. 2022 (Diff-SCM, arXiv 2207.12268), but in one step
    instead of a chain. A diseased reconstruction would be blurred, but the image is sharp. So the map keeps edges. It
    takes half the network evaluations of the paper's difference.
    """

    def compare(self, predict: PredictX0, x_t: Tensor, t: Tensor, image: Tensor) -> Tensor:
        """Return the healthy reconstruction minus the image; see the base class."""
        return predict(x_t, t, torch.full_like(t, HEALTHY)) - image


class PartialDenoisingDifference(Difference):
    """Adds noise of one level to the image, and denoises it in a chain of steps under either label.

    As in Hu et al. 2023 (MICCAI, arXiv 2306.03878), the two chains start from the same noise and are deterministic
    (DDIM). As in Sanchez et al. 2022 (Diff-SCM, arXiv 2207.12268), classifier-free guidance drives them apart.

    Args:
        start: Noise level at the start of the chains, below T.
        guidance: Weight of classifier-free guidance. 1 for no guidance; above 1, predictions move away from the
            prediction without a label.
    """

    def __init__(self, start: int = 400, guidance: float = 1.0) -> None:
        if start < 1:
            raise ValueError(f"start is {start}; it has to be at least 1.")
        self.start, self.guidance = start, guidance

    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse a start that the process does not have, and guidance if training hides no labels."""
        _check_level(self.start, process)
        if self.guidance != 1 and not label_hidden:
            raise ValueError(
                f"guidance is {self.guidance}; other values than 1 need a label_dropout above 0 in training."
            )

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
        labels = torch.stack([label, torch.full_like(label, NO_LABEL)], 1).flatten()
        x_0 = predict(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), labels)
        labelled, free = x_0[::2], x_0[1::2]
        return (free + self.guidance * (labelled - free)).clamp(-1, 1)


class ReleasedDifference(Difference):
    """The released code's arithmetic (run.py), for comparison with the released code.

    A residual is x_t minus the predicted x_0 at t = 0, as grey levels. The map is 1.5 times the diseased residual minus
    the healthy residual. The released code draws new noise for each network. Here both have the same noise, which makes
    little difference at t = 0.
    """

    _DISEASED_WEIGHT = 1.5
    _LUMA = (0.299, 0.587, 0.114)

    def check(self, process: NoiseProcess, channels: int, label_hidden: bool) -> None:
        """Refuse images that are not colour pictures."""
        if channels != len(self._LUMA):
            raise ValueError(f"These images have {channels} channels; this difference needs 3: red, green and blue.")

    def __call__(
        self,
        predict: PredictX0,
        process: NoiseProcess,
        image: Tensor,
        generators: Sequence[Generator],
        num_steps: int,
    ) -> Tensor:
        """Compare once; see the base class. ``num_steps`` has no effect."""
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        x_t = process.add_noise(image, keyed_normal(image.shape[1:], generators, image.device), t)
        healthy, diseased = (self.grey_residual(x_t - x_0) for x_0 in _under_either_label(predict, x_t, t))
        return self._DISEASED_WEIGHT * diseased - healthy

    def grey_residual(self, residual: Tensor) -> Tensor:
        """Convert a residual (B, 3, H, W) in about [-1, 1] to grey levels (B, 1, H, W); the lowest of an image is 0."""
        levels = (127.5 * (residual + 1)).trunc()
        grey = torch.einsum("bchw,c->bhw", levels, levels.new_tensor(self._LUMA))[:, None]
        return grey - grey.amin((-2, -1), keepdim=True)


def _under_either_label(predict: PredictX0, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Predict x_0 of the same noisy images as healthy and as diseased, in one batch."""
    label = torch.tensor([HEALTHY, DISEASED]).to(x_t.device).repeat(len(x_t))
    x_0 = predict(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), label)
    return x_0[::2], x_0[1::2]


def _check_level(level: int, process: NoiseProcess) -> None:
    if level >= process.num_train_steps:
        raise ValueError(
            f"The noise level is {level}; the highest level of the process is {process.num_train_steps - 1}."
        )
