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

_NO_CONDITION = Condition(())  # the network denoises the image itself
_CPU_PIXELS = 2**16  # per pass: a third faster than four times as many pixels, which do not fit the cache


class DiffSegSegmenter(DiffusionSegmenter):
    """Denoises images under the labels healthy and diseased (Shuai et al. 2024, arXiv 2404.16474).

    Diffuse, Attend and Segment (arXiv 2308.12469) is another method with the same name. DiffSeg learns from images with
    image-level labels, without masks. A sample is a difference map: the difference of two reconstructions with the same
    noise and two labels. ``num_steps`` is the number of comparisons per sample; a comparison takes two network
    evaluations. DiffSeg segments only the first region of the data: labels say nothing about regions within it.

    Args:
        denoiser: A network that denoises images given a label.
        process: The noise process; None for a linear schedule without shift, and a prediction of x_0.
        difference: How the two reconstructions are compared; None for the paper's way.
        decision: Level above which a map is foreground; None for Otsu's level.
        polarity: Brightness of diseased tissue compared with healthy tissue.
        channel_weights: Weight of the difference of each channel, by name; other channels have weight 0. None for equal
            weights.
        blur: Standard deviation of a Gaussian blur of the map, in pixels; 0 for no blur.
        percentiles: Percentiles of a map that become 0 and 1 before the decision. A lesion is lost if its share of the
            image is smaller than the share above the second percentile.
        least_contrast: Minimum difference of the two percentiles, in units of the image's range [-1, 1]. At or below
            it, the sample is empty. ``diffmedseg calibrate --nothing`` fits this number.
        ignore_background: Exclude background from normalisation and decision, and find nothing in it. In background,
            such as the air around a head, all channels have their minimum, -1.
        supervision: ``labels``, or ``pairs`` of each diseased image and its healthy counterpart.
        label_dropout: Share of training images with a hidden label.
        noise_range: First trained noise level, and the level after the last, in [0, T]; None for all levels.
        whitening: Normalises the colours of images before denoising; None for no change. The label recipe of the data
            needs the same whitening.
        whole_images: Show whole images to a network that was trained on crops. The network is convolutional, and this
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
                f"DiffSeg finds one region, the diseased tissue; the data has {len(self.regions)} regions that do not "
                f"lie within each other: {', '.join(self.regions)}. Choose data with one region or nested regions."
            )
        self.regions, self.nested = self.regions[:1], False
        unknown = set(channel_weights or ()) - set(self.channels)
        if unknown or (channel_weights is not None and not any(channel_weights.values())):
            raise ValueError(f"channel_weights are {dict(channel_weights or {})}; the channels are {self.channels}.")
        self.process = process or NoiseProcess(schedule="linear", input_scale=1.0, prediction="x_0")
        low, high = noise_range or (0, self.process.num_train_steps)
        if not 0 <= low < high <= self.process.num_train_steps:
            raise ValueError(
                f"noise_range is {noise_range}; expected two increasing levels, at most {self.process.num_train_steps}."
            )
        if supervision == "pairs" and self.process.prediction != "x_0":
            raise ValueError(f"supervision pairs needs a process that predicts x_0, not {self.process.prediction}.")
        if supervision == "pairs" and whitening is not None:
            raise ValueError(
                "supervision is pairs, which takes no whitening. Set whitening to null, or supervision to labels."
            )
        if not 0 <= label_dropout < 1 or not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(
                f"label_dropout is {label_dropout} and percentiles are {percentiles}; label_dropout has to be in [0, "
                "1), and percentiles two increasing numbers from 0 to 100."
            )
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
            raise ValueError(
                f"{type(denoiser).__name__} cannot learn from images without a label. Set label_dropout to 0."
            )

    def setup(self, stage: str) -> None:
        """Select the training targets in the data module, and check that it whitens images like the model.

        Raises:
            DataError: If the label recipe whitens images in another way.
        """
        recipe = getattr(getattr(self.trainer, "datamodule", None), "label_recipe", None)
        of_recipe, of_model = (describe(getattr(part, "whitening", None)) for part in (recipe, self))
        if stage == "fit" and of_recipe != of_model:
            raise DataError(
                f"The label recipe's whitening is {of_recipe}; the model's is {of_model}. Give the same to "
                "--data.label_recipe.whitening and --model.whitening."
            )
        super().setup(stage)

    def training_loss(self, batch: Batch) -> Tensor:
        """Add noise of a random level to each image, and denoise it given its label, which is sometimes hidden.

        With pairs, the target of half of the images is their healthy counterpart.
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
        """Normalise difference maps and apply the decision, outside of the background of each image.

        Args:
            maps: (B, S, H, W).
            image: (B, C, H, W), in [-1, 1].

        Returns:
            (B, S, H, W), in [0, 1]; 0 in the background.
        """
        soft = torch.zeros_like(maps)
        for image_soft, image_maps, tissue in zip(soft, maps, self._tissue(image), strict=True):
            if tissue.any():
                evidence = to_evidence(image_maps[:, tissue][:, None], self.least_contrast, self.percentiles)
                image_soft[:, tissue] = to_soft_mask(evidence, self.decision(evidence))[:, 0]
        return soft

    def contrast(self, maps: Tensor, image: Tensor) -> Tensor:
        """Return the difference of the percentiles of each map outside of the background, (B, S)."""
        contrast = maps.new_zeros(maps.shape[:2])
        for image_contrast, image_maps, tissue in zip(contrast, maps, self._tissue(image), strict=True):
            if tissue.any():
                low, high = percentile_range(image_maps[:, tissue], self.percentiles)
                image_contrast += high - low
        return contrast

    def _tissue(self, image: Tensor) -> Tensor:
        """Return the pixels outside of the background, (B, H, W), bool."""
        return is_tissue(image) if self.ignore_background else torch.ones_like(image[:, 0], dtype=torch.bool)

    def difference_maps(self, image: Tensor, generators: Generators, num_steps: int) -> Tensor:
        """Draw raw difference maps; a higher value means that the pixel looks more diseased.

        Args:
            image: (B, C, H, W), in [-1, 1], on the model's grid.
            generators: B lists of S generators.
            num_steps: Comparisons per map.

        Returns:
            (B, S, H, W), float32, in units of the image's range [-1, 1].
        """
        if self.whitening is not None:
            image = torch.stack([self.whitening(values) for values in image])
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
        """Return the median contrast of the samples of each image; see the base class."""
        generators = sample_generators(self.seed, keys, range(self.num_samples))
        image = image.to(self.device)
        return self.contrast(self.difference_maps(image, generators, self.num_steps), image).median(1).values.cpu()

    def _predict(self, parts: Sequence[Window], x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Predict x_0 in passes. The memory budget limits their rows, and on a CPU the cache does."""
        rows = self._rows_per_pass()
        if x_t.device.type == "cpu":
            rows = min(rows, max(_CPU_PIXELS // math.prod(self.image_size), 1))
        chunks = (torch.split(values, rows) for values in (x_t, t, label))
        return torch.cat([self._one_pass(parts, *chunk) for chunk in zip(*chunks, strict=True)])

    def _one_pass(self, parts: Sequence[Window], x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        def network(window: Tensor) -> Tensor:
            result: Tensor = self.denoiser(self._memory_format(window), t, _NO_CONDITION, label).float()
            return result

        output = blend(parts, (network(x_t[part]) for part in parts), self.image_size)
        return self.process.to_x_0(output, x_t, t)

    def _reduce(self, difference: Tensor) -> Tensor:
        """Reduce the channels of a difference (rows, C, H, W) to a map (rows, H, W)."""
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
