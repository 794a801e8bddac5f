"""MedSegDiff: diffusion over masks, conditioned on the image."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffmedseg.data.batch import Batch
from diffmedseg.diffusion import (
    DiffusionLoss,
    NoiseProcess,
    PriorLoss,
    ReverseProcess,
    keyed_generator,
    keyed_integers,
    keyed_normal,
    mask_to_x,
    x_to_mask,
)
from diffmedseg.diffusion.loss import DiceOver
from diffmedseg.models.denoiser import Condition, Denoiser, repeat_for_samples
from diffmedseg.models.recommended import Recommend
from diffmedseg.models.segmenter import DiffusionSegmenter, Generators
from diffmedseg.models.ssn.normal import (
    LowRankNormal,
    NormalNoise,
    choose_likely,
    log_likelihoods,
    monte_carlo_loss,
    training_samples,
)
from diffmedseg.models.tiling import blend
from diffmedseg.segmentation import Drawn

#: Samples by which a prior that is sampled learns. With the 20 of SSN's paper, rare masks are drawn more often
#: (experiments/benchmarks/rare_mode.py).
PRIOR_SAMPLES = 100


class MedSegDiffSegmenter(DiffusionSegmenter):
    """Denoises masks given the image (Wu et al., arXiv 2211.00611 and 2301.11798).

    One sample is one chain from its own noise.

    Args:
        denoiser: The network.
        process: The noise process. Here and in the next three ``recommended`` takes what the network recommends, and
            None the defaults of the class.
        reverse: The sampler.
        loss: The training loss. On data with several raters, its Dice term costs fidelity to what they draw.
        prior_loss: The loss of the condition network's own mask, for networks that have one. A prior that is sampled
            learns by its Monte-Carlo likelihood instead.
        noise_levels: Noise levels at which each encoded image is trained per step. Here and for ``prior_share`` None
            takes what the network recommends.
        dice_over: What the Dice terms of both losses are taken over, unless they say it themselves: ``image``, or
            ``batch`` where many masks are empty; see :func:`~diffmedseg.diffusion.loss.row_dice_loss`.
        stratified: Draw those of an image from as many equal parts of [0, T), one from each.
        prior_share: Share of the votes that the condition network's own mask has when samples are fused, in [0, 1); at
            0.5 it counts as much as all samples together.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(denoiser, **kwargs)
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
                f"{type(denoiser).__name__} has no mask of its own to begin with or to vote: set start to 1 and "
                "prior_share to 0, or use MedSegDiffV2 or MedSegDiffLite."
            )
        if getattr(denoiser, "residual", False) and self.process.prediction != "x_0":
            raise ValueError(
                f"A network that is residual to the logits of its own mask predicts x_0, not "
                f"{self.process.prediction}: change the prediction, or set residual to false."
            )
        self.loss = advice.loss() if loss == "recommended" else loss or DiffusionLoss()
        self.prior_loss = advice.prior_loss() if prior_loss == "recommended" else prior_loss or PriorLoss()
        for part in (self.loss, self.prior_loss):
            if getattr(part, "dice_over", dice_over) is None:  # a function of the user's own has none
                part.dice_over = dice_over
        self.noise_levels, self.stratified, self.prior_share = noise_levels, stratified, prior_share
        parts = {name: getattr(self, name) for name in ("process", "reverse", "loss", "prior_loss")}
        self._settle(noise_levels=noise_levels, prior_share=prior_share, **parts)

    def training_loss(self, batch: Batch) -> Tensor:
        """Noise each mask to random levels and denoise it (Ho et al. 2020, algorithm 1)."""
        x_0 = mask_to_x(batch["mask"]).repeat_interleave(self.noise_levels, 0)
        levels = range(self.noise_levels)
        generators = [keyed_generator(self.seed, "train", draw, level) for draw in batch["draw"] for level in levels]
        t = keyed_integers(self.process.num_train_steps, generators)
        if self.stratified:
            part = torch.arange(self.noise_levels).repeat(len(batch["draw"]))
            t = (part * self.process.num_train_steps + t) // self.noise_levels
        t = t.to(x_0.device)
        eps = keyed_normal(x_0.shape[1:], generators, x_0.device)
        x_t = self.process.add_noise(x_0, eps, t)
        condition, prior_loss = self._encode_to_train(batch, t, generators)
        output = self.denoiser(x_t, t, condition)
        loss: Tensor = self.loss(self.process, output, x_t, t, x_0, eps)
        if prior_loss is None:
            return loss
        self.log_training("train/prior_loss", prior_loss, batch)
        return loss + prior_loss

    def _encode_to_train(
        self, batch: Batch, t: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Condition, Tensor | None]:
        """Encode a batch. Return the condition of every row, and the loss of the prior where there is one.

        A prior that is sampled learns by its likelihood. Each row gets a sample that is likely given the row's mask:
        one that is drawn without looking at the mask would tell nothing of it, and the step network would unlearn it.
        """
        condition, mask = self.denoiser.encode(batch["image"]), batch["mask"]
        if condition.normal is not None:
            logits = training_samples(condition.normal, self.seed, batch["draw"], PRIOR_SAMPLES)
            likelihoods = log_likelihoods(logits, mask)
            chosen = choose_likely(logits.detach(), likelihoods.detach(), generators)
            return replace(condition, prior=chosen), monte_carlo_loss(likelihoods, mask[0].numel())
        if condition.prior is None:
            return condition, None
        prior_loss: Tensor = self.prior_loss(condition.prior, mask, t.reshape(-1, self.noise_levels))
        return condition, prior_loss

    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> Drawn:
        """Run S chains per image; see the base class. The image is encoded once, or each window of it."""
        windows = self.tiling.parts()
        conditions = [self.denoiser.encode(self._memory_format(image[window])) for window in windows]
        priors = [condition.prior.float().sigmoid() for condition in conditions if condition.prior is not None]
        prior = blend(windows, priors, self.image_size) if priors else None
        normals = [condition.normal for condition in conditions if condition.normal is not None]
        merge = partial(blend, windows, size=self.image_size)
        normal = LowRankNormal.merge(normals, merge) if normals else None
        num_samples = len(generators[0])
        # One image's samples may not fit in a pass; several images come here only if they do.
        per_pass = num_samples if len(image) > 1 else min(num_samples, self._rows_per_pass())
        parts = [
            self._run_chains(
                conditions, prior, normal, [g for row in generators for g in row[first : first + per_pass]], num_steps
            )
            for first in range(0, num_samples, per_pass)
        ]
        samples = torch.cat([part.reshape(len(image), -1, *part.shape[1:]) for part in parts], 1)
        return Drawn(samples, prior)

    def _run_chains(
        self,
        conditions: Sequence[Condition],
        prior: Tensor | None,
        normal: LowRankNormal | None,
        generators: Sequence[torch.Generator],
        num_steps: int,
    ) -> Tensor:
        parts = self.tiling.parts()
        if normal is not None:  # chains stand on samples of the prior, which windows share
            samples = len(generators) // len(normal.mean)
            rows = [generators[first : first + samples] for first in range(0, len(generators), samples)]
            base = normal.sample(NormalNoise.draw(rows, normal)).flatten(0, 1)
            conditions = [replace(one, prior=base[part]) for one, part in zip(conditions, parts, strict=True)]
            prior = base.sigmoid()

        def predict_x_0(x_t: Tensor, step: int) -> Tensor:
            t = torch.full((len(x_t),), step, device=x_t.device)
            found = (
                self.process.to_x_0(self.denoiser(x_t[part], t, condition).float(), x_t[part], step)
                for part, condition in zip(parts, conditions, strict=True)
            )
            return blend(parts, found, self.image_size)

        shape = (self.denoiser.mask_channels, *self.image_size)
        guess = None if prior is None else repeat_for_samples(mask_to_x(prior), len(generators))
        return x_to_mask(self.reverse(predict_x_0, self.process, shape, generators, num_steps, guess))
