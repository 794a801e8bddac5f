"""DiffSeg: masks from image-level labels, as the difference of two reconstructions."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from diffmedseg.configurable import describe
from diffmedseg.data.batch import Batch
from diffmedseg.data.labels import BorderWhitening
from diffmedseg.data.store import is_tissue
from diffmedseg.diffusion import DiffusionLoss, NoiseProcess
from diffmedseg.errors import DataError
from diffmedseg.keyed_random import keyed_generator, keyed_integers, keyed_normal
from diffmedseg.models.denoiser import Condition, Denoiser
from diffmedseg.models.diffseg.decision import Decision, Otsu, percentile_range, to_evidence, to_soft_mask
from diffmedseg.models.diffseg.denoiser import HEALTHY, NO_LABEL
from diffmedseg.models.diffseg.difference import Difference, NoisePredictionDifference
from diffmedseg.models.drawing import Generators, sample_generators
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.models.tiling import Window, blend, windows
from diffmedseg.segmentation import SampleSet

Polarity = Literal["darker", "brighter", "either"]

_NO_CONDITION = Condition(())  # the image is what is denoised
_CPU_PIXELS = 2**16  # in a pass: a third faster than four times as many, which leave the cache


class DiffSegSegmenter(DiffusionSegmenter):
    """Denoises images under the labels healthy and diseased (Shuai et al. 2024, arXiv 2404.16474).

    Not to be confused with Diffuse, Attend and Segment (arXiv 2308.12469), which bears the same name. It learns from
    images and their labels, no masks. One sample is one difference map: the same noise, two labels. ``num_steps`` is
    the number of comparisons that make up one sample, each of two network evaluations. Of the data's regions only the
    first is found: labels tell nothing of regions that lie within it.

    Args:
        denoiser: A network that denoises images given a label.
        process: The noise process; None for a linear schedule without shift, and a prediction of x_0.
        difference: How the two reconstructions are compared; None for the paper's way.
        decision: The level above which a map is foreground; None for Otsu's.
        polarity: How what is looked for differs from healthy tissue.
        channel_weights: By channel's name, what its difference counts; channels not named count nothing. None weighs
            all alike.
        blur: Deviation of a Gaussian over the map, in pixels; 0 for none.
        percentiles: Of a map, what becomes 0 and 1 before the decision. What fills a smaller share of the image than
            lies above the second is lost.
        least_contrast: A map whose percentiles lie no further apart, in units of the image's range [-1, 1], shows
            nothing: its sample is empty. ``diffmedseg calibrate --nothing`` fits it.
        ignore_background: Leave pixels of which all channels are at their least, -1, as the air around a head, out of
            normalisation and decision: nothing is found in them.
        supervision: ``labels``; or ``pairs``, where each diseased image comes with its healthy counterpart.
        label_dropout: How often training hides the label.
        noise_range: The levels that are trained, from and below, of T; None for all.
        whitening: Rewrites the colours of images before they are denoised; None leaves them. The label recipe of the
            data needs the same.
        whole_images: Show the network whole images even where it learned from crops. It is convolutional, and this
            takes a ninth of the time of windows.
        kwargs: The arguments of :class:`~diffmedseg.models.DiffusionSegmenter`, by name.
    """

    name = "diffseg"
    cuts_maps = True

    def __init__(
        self,
        denoiser: Denoiser,
        process: NoiseProcess | None = None,
        difference: Difference | None = None,
        decision: Decision | None = None,
        polarity: Polarity = "darker",
        channel_weights: Mapping[str, float] | None = None,
        blur: float = 1.0,
        percentiles: tuple[float, float] = (1.0, 99.0),
        least_contrast: float = 1e-4,
        ignore_background: bool = True,
        supervision: Literal["labels", "pairs"] = "labels",
        label_dropout: float = 0.1,
        noise_range: tuple[int, int] | None = None,
        whitening: BorderWhitening | None = None,
        whole_images: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(denoiser, **kwargs)
        if len(self.regions) > 1 and not self.nested:
            raise ValueError(
                f"DiffSeg finds one region, what tells diseased from healthy; the data has {len(self.regions)} that do "
                f"not lie within each other: {', '.join(self.regions)}."
            )
        self.regions, self.nested = self.regions[:1], False
        unknown = set(channel_weights or ()) - set(self.channels)
        if unknown or (channel_weights is not None and not any(channel_weights.values())):
            raise ValueError(f"channel_weights are {dict(channel_weights or {})}; the channels are {self.channels}.")
        self.process = process or NoiseProcess(schedule="linear", input_scale=1.0, prediction="x_0")
        low, high = noise_range or (0, self.process.num_train_steps)
        if not 0 <= low < high <= self.process.num_train_steps:
            raise ValueError(f"noise_range is {noise_range}; it has to lie in 0 to {self.process.num_train_steps}.")
        if supervision == "pairs" and self.process.prediction != "x_0":
            raise ValueError(f"Pairs need a process that predicts x_0, not {self.process.prediction}.")
        if supervision == "pairs" and whitening is not None:
            raise ValueError("Pairs are not whitened: set whitening to null, or supervision to labels.")
        if not 0 <= label_dropout < 1 or not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(f"label_dropout is {label_dropout} and percentiles are {percentiles}: out of range.")
        self.difference, self.decision = difference or NoisePredictionDifference(), decision or Otsu()
        self.polarity, self.channel_weights, self.blur = polarity, dict(channel_weights or {}), blur
        self.percentiles, self.least_contrast = (percentiles[0], percentiles[1]), least_contrast
        self.ignore_background = ignore_background
        self.supervision, self.noise_range = supervision, (low, high)
        self.label_dropout, self.whitening, self.whole_images = label_dropout, whitening, whole_images
        self.needs = ("label", "healthy") if supervision == "pairs" else ("label",)
        self.loss = DiffusionLoss(mse=1.0, bce=0.0)
        self._settle(process=self.process, difference=self.difference, decision=self.decision)
        self.difference.check(self.process, len(self.channels), label_dropout > 0)
        if label_dropout and not getattr(denoiser, "knows_no_label", True):
            raise ValueError(f"{type(denoiser).__name__} knows no image without a label: set label_dropout to 0.")

    def setup(self, stage: str) -> None:
        """Have the data module deal what this learns from; refuse crops whose colours are not what it will be shown.

        Raises:
            DataError: If the label recipe whitens images in another way.
        """
        recipe = getattr(getattr(self.trainer, "datamodule", None), "label_recipe", None)
        learned, shown = (describe(getattr(one, "whitening", None)) for one in (recipe, self))
        if stage == "fit" and learned != shown:
            raise DataError(
                f"The label recipe's whitening is {learned}; the model's is {shown}. Give the same to "
                "--data.label_recipe.whitening and --model.whitening."
            )
        super().setup(stage)

    def training_loss(self, batch: Batch) -> Tensor:
        """Noise each image to a random level and denoise it given its label, which is hidden at times.

        With pairs, half of the images are to be turned into their healthy counterparts.
        """
        image, label, target = batch["image"], batch["label"], batch["image"]
        generators = [keyed_generator(self.seed, "train", draw) for draw in batch["draw"]]
        low, high = self.noise_range
        t = low + keyed_integers(high - low, generators).to(image.device)
        eps = keyed_normal(image.shape[1:], generators, image.device)
        hidden, healthy = torch.stack([torch.rand(2, generator=g) for g in generators], 1).to(image.device)
        if self.supervision == "pairs":
            turned = healthy < 0.5
            target = torch.where(turned[:, None, None, None], batch["healthy"], image)
            label = torch.where(turned, HEALTHY, label)
        label = torch.where(hidden < self.label_dropout, NO_LABEL, label)
        x_t = self.process.add_noise(image, eps, t)
        output = self.denoiser(x_t, t, _NO_CONDITION, label)
        loss: Tensor = self.loss(self.process, output, x_t, t, target, eps)
        return loss

    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        """Draw S difference maps per image; see the base class."""
        return SampleSet(self.soft_masks(self.difference_maps(image, generators, num_steps), image)[:, :, None])

    def soft_masks(self, maps: Tensor, image: Tensor) -> Tensor:
        """Normalise difference maps and decide, over what of each image is no background.

        Args:
            maps: (B, S, H, W).
            image: (B, C, H, W), in [-1, 1].

        Returns:
            (B, S, H, W), in [0, 1]; 0 in the background.
        """
        soft = torch.zeros_like(maps)
        for found, one, shown in zip(soft, maps, self._shown(image), strict=True):
            if shown.any():
                evidence = to_evidence(one[:, shown][:, None], self.least_contrast, self.percentiles)
                found[:, shown] = to_soft_mask(evidence, self.decision(evidence))[:, 0]
        return soft

    def contrast(self, maps: Tensor, image: Tensor) -> Tensor:
        """Return how far the percentiles of each map lie apart, over what is no background: (B, S)."""
        found = maps.new_zeros(maps.shape[:2])
        for contrast, one, shown in zip(found, maps, self._shown(image), strict=True):
            if shown.any():
                low, high = percentile_range(one[:, shown], self.percentiles)
                contrast += high - low
        return found

    def _shown(self, image: Tensor) -> Tensor:
        """Return what is no background, (B, H, W), bool."""
        return is_tissue(image) if self.ignore_background else torch.ones_like(image[:, 0], dtype=torch.bool)

    def difference_maps(self, image: Tensor, generators: Generators, num_steps: int) -> Tensor:
        """Draw raw difference maps: higher where the image looks more diseased.

        Args:
            image: (B, C, H, W), in [-1, 1], on the model's grid.
            generators: B lists of S generators.
            num_steps: Comparisons that make up a map.

        Returns:
            (B, S, H, W), float32, in units of the image's range [-1, 1].
        """
        if self.whitening is not None:
            image = torch.stack([self.whitening(one) for one in image])
        flat = [generator for row in generators for generator in row]
        rows = image.repeat_interleave(len(generators[0]), 0)
        together = max(self._rows_per_pass() // (2 * num_steps), 1)
        parts = windows(self.image_size, 0) if self.whole_images else self.tiling.parts()
        predict = partial(self._predict, parts)
        maps = [
            self._reduce(
                self.difference(predict, self.process, rows[first : first + together],
                                flat[first : first + together], num_steps)
            )
            for first in range(0, len(rows), together)
        ]  # fmt: skip
        return torch.cat(maps).float().reshape(len(image), -1, *image.shape[-2:])

    @torch.inference_mode()
    def presence(self, image: Tensor, keys: Sequence[str]) -> Tensor:
        """Score images by the contrast that half of their samples exceed; see the base class."""
        generators = sample_generators(self.seed, keys, range(self.num_samples))
        image = image.to(self.device)
        return self.contrast(self.difference_maps(image, generators, self.num_steps), image).median(1).values.cpu()

    def _predict(self, parts: Sequence[Window], x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Predict x_0 of as many rows at once as the memory budget allows, and are fastest."""
        rows = self._rows_per_pass()
        if x_t.device.type == "cpu":
            rows = min(rows, max(_CPU_PIXELS // math.prod(self.image_size), 1))
        some = (torch.split(one, rows) for one in (x_t, t, label))
        return torch.cat([self._one_pass(parts, *rows) for rows in zip(*some, strict=True)])

    def _one_pass(self, parts: Sequence[Window], x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        def network(window: Tensor) -> Tensor:
            result: Tensor = self.denoiser(self._memory_format(window), t, _NO_CONDITION, label).float()
            return result

        output = blend(parts, (network(x_t[part]) for part in parts), self.image_size)
        return self.process.to_x_0(output, x_t, t)

    def _reduce(self, difference: Tensor) -> Tensor:
        """Take the channels of a difference (rows, C, H, W) together, (rows, H, W)."""
        if self.channel_weights and difference.shape[1] == len(self.channels):
            weights = difference.new_tensor([self.channel_weights.get(name, 0.0) for name in self.channels])
        else:
            weights = difference.new_ones(difference.shape[1])
        signed = {"darker": difference, "brighter": -difference, "either": difference.abs()}[self.polarity]
        reduced = torch.einsum("bchw,c->bhw", signed, weights / weights.abs().sum())
        if self.blur:
            from kornia.filters import gaussian_blur2d

            radius = min(math.ceil(3 * self.blur), *(side - 1 for side in self.image_size))
            reduced = gaussian_blur2d(reduced[:, None], 2 * radius + 1, (self.blur, self.blur))[:, 0]
        return reduced
