"""MedSegDiff: diffusion over masks, conditioned on the image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.diffusion import DiffusionLoss, NoiseProcess, PriorLoss, ReverseProcess, mask_to_x, x_to_mask
from diffmedseg.diffusion.loss import DiceOver
from diffmedseg.diffusion.unrolled import UnrolledReverse
from diffmedseg.keyed_random import Generator, keyed_generator, keyed_integers, keyed_normal
from diffmedseg.models.denoiser import Condition, Denoiser, repeat_for_samples
from diffmedseg.models.drawing import Generators
from diffmedseg.models.energy import energy_distance, energy_generators
from diffmedseg.models.graph_sampler import GraphSampler
from diffmedseg.models.low_rank_normal import (
    NormalNoise,
    choose_likely,
    log_likelihoods,
    monte_carlo_loss,
    normal_inputs,
    training_samples,
)
from diffmedseg.models.medsegdiff.encoded import EncodedImages
from diffmedseg.models.presence import decide_presence, draw_presence, presence_numbers
from diffmedseg.models.recommended import Recommend
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.targets import Raters, Targets, hide_unsure, masks_needed, training_targets
from diffmedseg.models.tiling import Window, blend, windows
from diffmedseg.noise_input import NoiseInput
from diffmedseg.segmentation import SampleSet

#: Samples per image in the training of a sampled prior. With 20 samples, as in SSN's paper, rare masks are drawn too
#: often (experiments/benchmarks/rare_mode.py).
PRIOR_SAMPLES = 100


class MedSegDiffSegmenter(DiffusionSegmenter):
    """Denoises masks given the image (Wu et al., arXiv 2211.00611 and 2301.11798).

    A sample is a chain of denoising steps from its own noise.

    Args:
        denoiser: The network.
        process: The noise process. For this and the next three arguments, ``recommended`` takes the network's
            recommendation, and None the defaults of the class.
        reverse: The sampler.
        loss: The training loss. With several raters, its Dice term makes samples less like the raters' masks.
        prior_loss: The loss of the condition network's own mask, if it has one. A sampled prior learns by its
            Monte-Carlo likelihood instead.
        noise_levels: Noise levels per encoded image and training step. For this argument and ``prior_share``, None
            takes the network's recommendation.
        dice_over: Pixels of each Dice in both losses, unless a loss has its own setting: ``image``, or ``batch`` if
            many masks are empty; see :func:`~diffmedseg.diffusion.loss.row_dice_loss`.
        raters: Target masks of an image: the mask of ``one`` rater, who is drawn anew each time, or the masks of
            ``all`` raters, each with its own noise. The condition network runs once per image in both cases; the step
            network runs once for each target mask and noise level.
        energy_weight: Weight of the energy term of the loss: the unbiased GED between a few samples and all raters of
            an image, with gradients through all sampling steps. 0 for no energy term. See
            :func:`~diffmedseg.models.energy.energy_distance`.
        energy_samples: Samples of each image in the energy term, at least 2.
        energy_steps: Network evaluations per sample in the energy term; None takes ``num_steps``.
        stratified: Divide [0, T) into ``noise_levels`` equal parts, and draw a noise level from each.
        prior_share: Share of the votes of the condition network's own mask in the fusion, in [0, 1). At 0.5 it has the
            weight of all samples together.
        kwargs: The arguments of :class:`~diffmedseg.models.DiffusionSegmenter`, by name.
    """

    name = "medsegdiff"

    def __init__(
        self,
        denoiser: Denoiser,
        process: NoiseProcess | Recommend | None = "recommended",
        reverse: ReverseProcess | Recommend | None = "recommended",
        loss: DiffusionLoss | Recommend | None = "recommended",
        prior_loss: PriorLoss | Recommend | None = "recommended",
        noise_levels: int | None = None,
        stratified: bool = False,
        prior_share: float | None = None,
        dice_over: DiceOver = "image",
        raters: Raters = "one",
        energy_weight: float = 0.0,
        energy_samples: int = 2,
        energy_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(denoiser, **kwargs)
        self.needs = masks_needed(raters, energy_weight, energy_samples)
        self.raters, self.energy_weight, self.energy_samples = raters, energy_weight, energy_samples
        if energy_steps is not None and energy_steps < 1:
            raise ValueError(f"energy_steps is {energy_steps}; it has to be at least 1.")
        self.energy_steps = energy_steps
        advice = denoiser.recommended
        noise_levels = advice.noise_levels if noise_levels is None else noise_levels
        prior_share = advice.prior_share if prior_share is None else prior_share
        if noise_levels < 1:
            raise ValueError(f"noise_levels is {noise_levels}; it has to be at least 1.")
        if not 0 <= prior_share < 1:
            raise ValueError(f"prior_share is {prior_share}; it has to be in [0, 1).")
        self.process = advice.process() if process == "recommended" else process or NoiseProcess()
        self.reverse = advice.reverse() if reverse == "recommended" else reverse or ReverseProcess()
        if not denoiser.has_prior and (prior_share or self.reverse.start < 1):
            raise ValueError(
                f"{type(denoiser).__name__} predicts no prior mask; a start below 1 and a prior_share above 0 need "
                "one. Set start to 1 and prior_share to 0, or use MedSegDiffV2 or MedSegDiffLite."
            )
        if getattr(denoiser, "residual", False) and self.process.prediction != "x_0":
            raise ValueError(
                f"The process predicts {self.process.prediction}; a network with residual=true has to predict x_0. "
                "Change the prediction, or set residual to false."
            )
        self.loss = advice.loss() if loss == "recommended" else loss or DiffusionLoss()
        self.prior_loss = advice.prior_loss() if prior_loss == "recommended" else prior_loss or PriorLoss()
        for part in (self.loss, self.prior_loss):
            if getattr(part, "dice_over", dice_over) is None:  # a function of the user's own has none
                part.dice_over = dice_over
        self.noise_levels, self.stratified, self.prior_share = noise_levels, stratified, prior_share
        parts = {name: getattr(self, name) for name in ("process", "reverse", "loss", "prior_loss")}
        self._settle(noise_levels=noise_levels, prior_share=prior_share, **parts)

    @property
    def rewards_empty_masks(self) -> bool:
        """Whether a Dice term is per image and sees empty masks; with a presence head it sees none."""
        per_image = any(getattr(part, "dice_over", None) == "image" for part in (self.loss, self.prior_loss))
        return per_image and getattr(self.denoiser, "presence", None) is None

    def training_loss(self, batch: Batch) -> Tensor:
        """Add noise of random levels to each mask, and denoise it (Ho et al. 2020, algorithm 1).

        If the network predicts presence, the presence is learned from all masks, and all else from masks that are not
        empty.
        """
        encoded, draws = self.denoiser.encode(batch["image"]), batch["draw"]
        targets = training_targets(batch, self.raters, encoded.presence is not None)
        rows = range(self.noise_levels * len(targets.mask) // len(draws))  # of each image
        generators = [keyed_generator(self.seed, "train", draw, row) for draw in draws for row in rows]
        x_0 = mask_to_x(targets.mask).repeat_interleave(self.noise_levels, 0)
        t = self._draw_levels(generators).to(x_0.device)
        eps = keyed_normal(x_0.shape[1:], generators, x_0.device)
        x_t = self.process.add_noise(x_0, eps, t)
        condition, losses = self._condition_losses(encoded, targets, draws, t, generators)
        output = self.denoiser(x_t, t, condition)
        loss: Tensor = self.loss(self.process, output, x_t, t, x_0, eps, *_weights(targets, self.noise_levels))
        if self.energy_weight:
            losses["energy_loss"] = self.energy_weight * self._energy(batch, encoded)
        for name, value in losses.items():
            loss = loss + value
            self.log_training(f"train/{name}", value, batch)
        return loss

    def _energy(self, batch: Batch, encoded: Condition) -> Tensor:
        """Return the unbiased GED of a few samples of each image, in expectation over their presence."""
        size = batch["image"].shape[2:]
        images = EncodedImages.merge(windows(size, 0), [encoded], size)
        generators = energy_generators(self.seed, batch["draw"], self.energy_samples)
        steps = self.num_steps if self.energy_steps is None else self.energy_steps
        shapes = self._run_chains(images, [g for row in generators for g in row], steps)
        presence = None if encoded.presence is None else encoded.presence.sigmoid()
        samples = hide_unsure(shapes.reshape(len(generators), -1, *shapes.shape[1:]), batch)
        return energy_distance(samples, hide_unsure(batch["raters"], batch), batch["rater_valid"], presence)

    def _draw_levels(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw the noise level of each row."""
        t = keyed_integers(self.process.num_train_steps, generators)
        if not self.stratified:
            return t
        part = torch.arange(self.noise_levels).repeat(len(generators) // self.noise_levels)
        return (part * self.process.num_train_steps + t) // self.noise_levels

    def _condition_losses(
        self,
        condition: Condition,
        targets: Targets,
        draws: Sequence[int],
        t: Tensor,
        generators: Sequence[torch.Generator],
    ) -> tuple[Condition, dict[str, Tensor]]:
        """Return the condition of each row, and the losses of the condition network.

        A sampled prior learns by its likelihood. Each row gets a sample that is likely given the row's mask. A sample
        independent of the mask would have no information about it, and the step network would learn to ignore it.
        """
        losses, mask, raters = {}, targets.mask, len(targets.mask) // len(draws)
        if condition.presence is not None:
            losses["presence_loss"] = F.binary_cross_entropy_with_logits(
                condition.presence, targets.present, targets.known
            )
        if condition.normal is not None:
            logits = training_samples(condition.normal, self.seed, draws, PRIOR_SAMPLES).repeat_interleave(raters, 0)
            likelihoods = log_likelihoods(logits, mask, targets.weight, targets.pixels)
            losses["prior_loss"] = monte_carlo_loss(likelihoods, mask[0].numel())
            likely = choose_likely(logits.detach(), likelihoods.detach(), generators)
            return replace(condition, prior=likely), losses
        if condition.prior is not None:
            prior, levels = condition.prior.repeat_interleave(raters, 0), t.reshape(-1, self.noise_levels)
            losses["prior_loss"] = self.prior_loss(prior, mask, levels, *_weights(targets))
        return condition, losses

    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        """Run S chains per image; see the base class. Each image, or each of its windows, is encoded once."""
        num_samples, images = len(generators[0]), self._encode(image, self._parts(image))
        # The samples of one image may exceed a pass; several images never do.
        per_pass = num_samples if len(image) > 1 else min(num_samples, self._rows_per_pass(image.shape[2:]))
        passes = [
            self._draw_rows(images, [g for row in generators for g in row[first : first + per_pass]], num_steps)
            for first in range(0, num_samples, per_pass)
        ]
        samples = torch.cat([rows.reshape(len(image), -1, *rows.shape[1:]) for rows in passes], 1)
        return SampleSet(samples, images.probability)

    def graph_sampler(self, num_steps: int) -> GraphSampler:
        """Return a function from noise to the results of chains; see the base class.

        The noise of a sample is, in the order of drawing: its presence, the noise of the prior, and the first x_t.
        """
        parts, regions, size = self.tiling.parts(), self.denoiser.mask_channels, self.image_size
        condition, numbers = self._empty_condition(parts[0]), presence_numbers(regions, self.nested)
        inputs = (
            *(() if condition.presence is None else (NoiseInput("presence", "uniform", (numbers,)),)),
            *(() if condition.normal is None else normal_inputs(condition.normal, size)),
            NoiseInput("noise", "normal", (regions, *size)),
        )
        reverse = UnrolledReverse(self.reverse, self.process, num_steps)
        return GraphSampler(inputs, partial(self._draw_given, parts, reverse), reverse)

    def _draw_given(
        self, parts: Sequence[Window], reverse: UnrolledReverse, image: Tensor, noise: Mapping[str, Tensor]
    ) -> SampleSet:
        """Run S chains per image in a single pass, with given noise."""
        images, first = self._encode(image, parts), noise["noise"].flatten(0, 1)
        sampled = images
        if images.normal is not None:
            sampled = images.with_noise(NormalNoise(noise["latents"], noise["pixels"]))
        rows = x_to_mask(reverse(self._predictor(sampled), first, self._guess(sampled, first.shape[0])))
        if images.chance is not None:
            rows = rows * decide_presence(images.chance, noise["presence"].flatten(0, 1))
        return SampleSet(rows.reshape(noise["noise"].shape), images.probability)

    def _encode(self, image: Tensor, parts: Sequence[Window]) -> EncodedImages:
        conditions = [self.denoiser.encode(self._memory_format(image[part])) for part in parts]
        return EncodedImages.merge(parts, conditions, image.shape[2:])

    def _draw_rows(self, images: EncodedImages, generators: Sequence[Generator], num_steps: int) -> Tensor:
        """Draw a mask per generator: first its presence, then its shape."""
        if images.chance is None:
            return self._run_chains(images, generators, num_steps)
        present = draw_presence(images.chance, generators, self.nested)
        return self._run_chains(images, generators, num_steps) * present

    def _run_chains(self, images: EncodedImages, generators: Sequence[Generator], num_steps: int) -> Tensor:
        images = images.with_samples(generators)  # windows share a sample of the prior
        predict_x_0, guess = self._predictor(images), self._guess(images, len(generators))
        shape = (self.denoiser.mask_channels, *images.size)
        return x_to_mask(self.reverse(predict_x_0, self.process, shape, generators, num_steps, guess))

    def _guess(self, images: EncodedImages, rows: int) -> Tensor | None:
        """Return the prior of each row as x_0; None without a prior."""
        return None if images.prior is None else repeat_for_samples(mask_to_x(images.prior.detach()), rows)

    def _predictor(self, images: EncodedImages) -> Callable[[Tensor, int], Tensor]:
        """Return a function that predicts x_0 from noisy masks (B * S, K, H, W) of images."""

        def predict_x_0(x_t: Tensor, step: int) -> Tensor:
            t = torch.full((x_t.shape[0],), step, device=x_t.device)
            window_results = (
                self.process.to_x_0(self.denoiser(x_t[part], t, condition).float(), x_t[part], step)
                for part, condition in zip(images.parts, images.conditions, strict=True)
            )
            return blend(images.parts, window_results, images.size)

        return predict_x_0


def _weights(targets: Targets, rows: int = 1) -> tuple[Tensor | None, ...]:
    """Return the weights of masks and pixels of each row as arguments, without trailing None.

    A loss of the user then needs no arguments for weights if all weights are equal.
    """
    weights = [targets.weight, targets.pixels]
    while weights and weights[-1] is None:
        weights.pop()
    return tuple(None if weight is None else weight.repeat_interleave(rows, 0) for weight in weights)
