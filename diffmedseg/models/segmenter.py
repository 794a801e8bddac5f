"""The base of all models that are trained: their settings, optimiser and training steps."""

import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from diffmedseg.data.batch import Batch
from diffmedseg.errors import ExportError
from diffmedseg.familiarity import Familiarity, pool_maps
from diffmedseg.keyed_random import Generator, check_slice_correlation, sample_generator
from diffmedseg.metrics import Dice
from diffmedseg.models.denoiser import Condition, Denoiser
from diffmedseg.models.graph_sampler import GraphSampler
from diffmedseg.models.optimisation import SharedFactory, scaled, split_encoder, warmup_cosine
from diffmedseg.models.recommended import Recommend
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.models.stacks import as_volume, check_depth, cut_slices, join_batch, volumes_of
from diffmedseg.models.stored import StoredModule
from diffmedseg.models.targets import sure_part
from diffmedseg.models.tiling import Tiling, Window
from diffmedseg.models.validation import ValidationScore
from diffmedseg.models.views import TTA, flip, views_of
from diffmedseg.postprocessing.calibration import Calibration
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.fusion import Fusion, MeanFusion
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.segmentation import SampleSet, Segmentation, resize_soft

_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
_REGIONS = {1: ("lesion",)}
_LEVELS = 2**16  # in which a threshold is looked up; float32 holds each

_log = logging.getLogger(__name__)

#: What to do about a model that finds nothing, and besides where its loss has a Dice term.
_EMPTY_REMEDY = "In the first steps this is usual. If it stays, train longer"
_DICE_REMEDY = ", or take the Dice loss over batches by --model.dice_over=batch"

Generators = Sequence[Sequence[Generator]]


class DiffusionSegmenter(StoredModule, Segmenter, ABC):
    """A model that segments by a network; see :class:`~diffmedseg.models.Segmenter`.

    A method says only how its training loss comes about for a batch and how it draws samples for an image.

    Args:
        denoiser: The network.
        image_size: Height and width of the model's grid.
        channels: Names of the image's channels, in order; None for names that fit their number.
        regions: Names of the mask's regions, in order; None for names that fit their number.
        nested: Whether each region lies within the one before it.
        fusion: Turns samples into a probability; None for their mean.
        threshold: Foreground is where the probability exceeds it.
        num_samples: S when testing and predicting. Here and in the next three None takes what the network recommends.
        num_steps: Network evaluations per sample when testing and predicting.
        val_num_samples: S when validating.
        val_num_steps: Network evaluations per sample when validating.
        optimizer: Makes the optimiser from the parameters.
        warmup_steps: Steps over which the learning rate rises linearly.
        cosine_decay: Whether it then falls as a cosine to zero at the end of training, where that is known. A run that
            ended and goes on with a larger ``max_steps`` then differs from one that had them from the start.
        seed: Keys the noise of training and sampling.
        pixels_per_pass: Memory budget of sampling: the pixels (rows x H x W) in one pass through the network.
        channels_last: Keep maps with the channels last in memory: faster on most hardware.
        calibration: Maps the fused probability; ``threshold`` applies to what it gives.
        refinement: Refines the fused probability by the image, before it is calibrated; ``recommended`` takes what the
            network recommends, None refines nothing.
        conformal: Gives contours that hold the truth as often as it says.
        familiarity: Tells images that look unlike those that the model was validated on.
        cropped: Whether images are windows of pictures, as those around an optic disc: :meth:`segment` has to be given
            such windows.
        value_range: What becomes black and white in pictures of more than 8 bits, as in the data it was trained on;
            None takes 0 to 65,535 for 16 bits, and refuses more.
        slice_input: How slices of volumes become images, as in the data it was trained on; None where each is z-scored
            and shown alone, and fills the grid.
        encoder_lr: Factor on the learning rate of the network's encoder, such as 0.3 for a pretrained encoder.
        tta: Test-time augmentation when testing and predicting; ``flips`` is four views, see :meth:`segment`.
        fitted_tta: Test-time augmentation with which calibration and contours were fitted.
        slice_correlation: How noise is alike in the slices of a volume. None is the same noise in all slices. Else the
            distance in mm from which slices have independent noise, and slices nearer than that have similar noise; 0
            is noise of its own in each slice. Images that are no slices have noise of their own.
    """

    num_steps: int
    seed: int
    tta: TTA
    familiarity: Familiarity | None

    def __init__(
        self,
        denoiser: Denoiser,
        image_size: tuple[int, int] = (64, 64),
        channels: Sequence[str] | None = None,
        regions: Sequence[str] | None = None,
        nested: bool = False,
        fusion: Fusion | None = None,
        threshold: float = 0.5,
        num_samples: int | None = None,
        num_steps: int | None = None,
        val_num_samples: int | None = None,
        val_num_steps: int | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 100,
        cosine_decay: bool = True,
        seed: int = 0,
        pixels_per_pass: int = 2**20,
        channels_last: bool = True,
        calibration: Calibration | None = None,
        refinement: Refinement | Recommend | None = "recommended",
        conformal: Conformal | None = None,
        familiarity: Familiarity | None = None,
        cropped: bool = False,
        value_range: tuple[float, float] | None = None,
        slice_input: SliceInput | None = None,
        encoder_lr: float = 1.0,
        tta: TTA = "none",
        fitted_tta: TTA = "none",
        slice_correlation: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}; it has to lie between 0 and 1.")
        advice = denoiser.recommended
        self.num_samples = advice.num_samples if num_samples is None else num_samples
        self.num_steps = advice.num_steps if num_steps is None else num_steps
        self.val_num_samples = advice.val_num_samples if val_num_samples is None else val_num_samples
        self.val_num_steps = advice.val_num_steps if val_num_steps is None else val_num_steps
        if min(self.num_samples, self.num_steps, self.val_num_samples, self.val_num_steps) < 1:
            raise ValueError("num_samples, num_steps, val_num_samples and val_num_steps have to be at least 1.")
        channels = _names("channel", denoiser.image_channels, _CHANNELS) if channels is None else channels
        regions = _names("region", denoiser.mask_channels, _REGIONS) if regions is None else regions
        self.channels, self.regions, self.nested = tuple(channels), tuple(regions), nested
        self.slice_input = slice_input
        check_depth(denoiser, self.depth)
        shown = self.image_channels
        if (denoiser.image_channels, denoiser.mask_channels) != (len(shown), len(regions)):
            raise ValueError(
                f"The network takes {denoiser.image_channels} channels and gives {denoiser.mask_channels} "
                f"regions; the data has {len(shown)} {shown} and {len(regions)} {tuple(regions)}."
            )
        if encoder_lr <= 0:
            raise ValueError(f"encoder_lr is {encoder_lr}; it has to be positive.")
        if encoder_lr != 1 and not denoiser.encoder_parameters():
            raise ValueError(
                f"encoder_lr is {encoder_lr}, but the network {type(denoiser).__name__} has no encoder of its own: "
                "choose an encoder, or leave encoder_lr at 1."
            )
        for augmentation in (tta, fitted_tta):
            views_of(augmentation)
        self.encoder_lr, self.tta, self.fitted_tta = encoder_lr, tta, fitted_tta
        self.slice_correlation = check_slice_correlation(slice_correlation)
        if self.depth and slice_correlation is not None:
            raise ValueError(
                f"slice_correlation is {slice_correlation:g}, which is for networks of slices. A network of volumes "
                "draws noise for a whole volume: set it to null."
            )
        self._last = torch.channels_last_3d if self.depth else torch.channels_last
        self.denoiser = denoiser.to(memory_format=self._last) if channels_last else denoiser
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.fusion = fusion or MeanFusion()
        self.threshold, self.calibration = threshold, calibration
        self.refinement = advice.refinement() if refinement == "recommended" else refinement
        self.conformal, self.familiarity, self.cropped = conformal, familiarity, cropped
        self.value_range = None if value_range is None else (value_range[0], value_range[1])
        self.register_load_state_dict_pre_hook(_leave_familiarity_out)  # type: ignore[no-untyped-call]  # of torch
        self.optimizer, self.warmup_steps, self.cosine_decay = SharedFactory(optimizer), warmup_steps, cosine_decay
        self.seed, self.pixels_per_pass, self.channels_last = seed, pixels_per_pass, channels_last
        self.val_dice, self.val_score = Dice(), ValidationScore()
        self.test_dice = torch.nn.ModuleList(Dice() for _ in self.regions)
        self.tiling = Tiling(self.image_size, denoiser.divisor, self.depth)
        sampling = ("num_samples", "num_steps", "val_num_samples", "val_num_steps")
        settled = (*sampling, "channels", "regions", "fusion", "refinement")
        self._settle(**{name: getattr(self, name) for name in settled})

    # What a method has to say.

    @abstractmethod
    def training_loss(self, batch: Batch) -> Tensor:
        """Compute the training loss of a batch, a scalar; ``batch["draw"]`` keys its randomness."""

    @abstractmethod
    def draw_samples(self, image: Tensor, generators: Generators, num_steps: int) -> SampleSet:
        """Draw samples for images.

        Args:
            image: (B, C, H, W), in [-1, 1], on the model's grid; (1, C, D, H, W) where the network takes volumes.
            generators: B lists of S generators, one per sample: the only source of randomness.
            num_steps: Network evaluations per sample.

        Returns:
            Samples (B, S, K, ...), float32, of the image's sides, and the condition network's own mask where there is
            one.
        """

    def graph_sampler(self, num_steps: int) -> GraphSampler:
        """Return how samples follow from an image and noise, as :meth:`draw_samples` draws them.

        Args:
            num_steps: Network evaluations per sample.

        Raises:
            ExportError: If the method has no form as a graph.
            ValueError: If the sampler adds noise at its steps.
        """
        raise ExportError(f"{type(self).__name__} cannot be exported: its method has no form as a graph.")

    def _empty_condition(self, part: Window) -> Condition:
        """Return the condition of an image of zeros, which tells what the network's conditions consist of."""
        return self.denoiser.encode(torch.zeros(1, len(self.channels), *self.image_size, device=self.device)[part])

    #: Beginnings of the names of weights that a checkpoint may have and a model may leave out.
    optional_weights = ("familiarity.",)

    #: Share of the votes that the condition network's own mask has when samples are fused.
    prior_share: float = 0.0

    #: Samples whose contrast is no larger are empty, for methods that would always find something.
    least_contrast: float = 0.0

    def presence(self, image: Tensor, keys: Sequence[str]) -> Tensor | None:
        """Score images (B, C, H, W) on the model's grid by how surely there is anything to find.

        Returns:
            (B,), to be compared with ``least_contrast``; None for methods whose masks are empty where there is nothing.
        """
        return None

    # Segmenting.

    @torch.inference_mode()
    def features(self, image: Tensor) -> Tensor | None:
        """Return what the familiarity of images follows from: means and deviations of the network's maps.

        Args:
            image: (B, C, H, W), in [-1, 1], on the model's grid; the slices of one volume where the network takes such.

        Returns:
            (B, F), float32; the mean over the windows that the network sees. None where the network gives no maps.
        """
        shown = self._as_seen(image)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 they would be others
            parts = [self.denoiser.image_maps(self._memory_format(shown[part])) for part in self._parts(shown)]
            return torch.stack([pool_maps(maps) for maps in parts]).mean(0).expand(len(image), -1) if parts[0] else None

    @property
    def title(self) -> str:
        """What people call the network, or else the method."""
        return self.denoiser.title or self.name

    @property
    def papers(self) -> tuple[str, ...]:
        """What describes the network's method."""
        return tuple(self.denoiser.papers)

    def fewest_samples(self, tta: TTA | None = None) -> int:
        """Return the number of views; see the base class."""
        return len(views_of(self.tta if tta is None else tta))

    @property
    def decision_level(self) -> float:
        """The probability before calibration above which a pixel is foreground: ``threshold`` is after it."""
        if self.calibration is None:
            return self.threshold
        levels = torch.arange(_LEVELS + 1) / _LEVELS
        return max(int((self.calibration(levels) <= self.threshold).sum()) - 1, 0) / _LEVELS

    @torch.inference_mode()
    def draw(
        self,
        image: Tensor,
        keys: Sequence[str],
        samples: range,
        num_steps: int | None = None,
        seed: int | None = None,
        tta: TTA | None = None,
    ) -> SampleSet:
        """Draw samples, dealt to the views in turn; see the base class. Familiarity is that of the image as it is."""
        num_steps, seed = self.num_steps if num_steps is None else num_steps, self.seed if seed is None else seed
        views = views_of(self.tta if tta is None else tta)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            drawn = SampleSet.pool(
                [
                    self._draw_view(image, keys, samples[i :: len(views)], num_steps, seed, view)
                    for i, view in enumerate(views)
                ]
            )
            features = None if self.familiarity is None else self._features_of(image, keys, samples[:: len(views)])
        finally:
            for module, mode in modes:  # parts that were frozen stay so
                module.training = mode
        return replace(drawn, features=features)

    def _draw_view(
        self, image: Tensor, keys: Sequence[str], samples: range, num_steps: int, seed: int, axes: tuple[int, ...]
    ) -> SampleSet:
        """Draw samples of images that are flipped along axes, and flip them back."""
        flipped, chunks = flip(image, axes), []
        for some in self._chunks(keys, len(samples)):
            own = keys[some]
            generators = sample_generators(seed, own[:1] if self.depth else own, samples)
            drawn = self.draw_samples(self._memory_format(self._as_seen(flipped[some])), generators, num_steps)
            chunks.append(drawn.map(partial(cut_slices, number=len(own))) if self.depth else drawn)
        return SampleSet.cat(chunks).map(partial(flip, axes=axes))

    def _features_of(self, image: Tensor, keys: Sequence[str], samples: range) -> Tensor | None:
        """Return the features of images, chunk by chunk; see :meth:`features`."""
        chunks = [self.features(image[some]) for some in self._chunks(keys, len(samples))]
        there = [chunk for chunk in chunks if chunk is not None]
        return torch.cat(there) if there else None

    def _chunks(self, keys: Sequence[str], samples: int) -> list[slice]:
        """Return parts of a batch: a volume each, or images whose samples fit the memory budget together."""
        if self.depth:
            return volumes_of(keys)
        per_pass = max(self._rows_per_pass() // samples, 1)
        return [slice(first, first + per_pass) for first in range(0, len(keys), per_pass)]

    def _as_seen(self, image: Tensor) -> Tensor:
        """Return images (B, C, H, W), joined to a volume (1, C, D, H, W) if the network takes volumes."""
        return as_volume(image, self.depth) if self.depth else image

    def _parts(self, image: Tensor) -> list[Window]:
        """Return what the network sees at once of images (B, C, H, W) or volumes (B, C, D, H, W)."""
        return self.tiling.parts(image.shape[2] if self.depth else None)

    def fuse_plainly(self, drawn: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]) -> Segmentation:
        """Fuse and refine what was drawn; see the base class."""
        fused = self.fuse_by(self.fusion, drawn, size)
        if self.refinement is None:
            return fused
        grid = (int(drawn.samples.shape[-2]), int(drawn.samples.shape[-1]))
        small = self.fuse_by(self.fusion, drawn, grid)
        try:
            refined = self.refinement(image, small.samples, small.probability, self.nested, keys)
        except ModuleNotFoundError as error:  # a checkpoint may come to a machine without a compiler
            warnings.warn(f"Masks are not refined: {error}", stacklevel=2)
            return fused
        probability = resize_soft(refined, size)
        return replace(fused, probability=probability, mask=probability > self.threshold, unrefined=fused.probability)

    def _voters(self, drawn: SampleSet) -> tuple[Tensor, Tensor | None]:
        """Return what is fused, and its weights: the samples, and the prior where it has a share of the votes."""
        samples, prior = drawn.samples, drawn.prior
        if prior is None or not self.prior_share:
            return super()._voters(drawn)
        weights = samples.new_ones(samples.shape[1]) if drawn.weights is None else drawn.weights.to(samples)
        own = weights.sum(0, keepdim=True) * self.prior_share / (1 - self.prior_share)
        return torch.cat([samples, prior[:, None]], 1), torch.cat([weights, own])

    def _rows_per_pass(self, size: Sequence[int] | None = None) -> int:
        return max(self.pixels_per_pass // math.prod(size or self.image_size), 1)

    def _memory_format(self, image: Tensor) -> Tensor:
        return image.contiguous(memory_format=self._last) if self.channels_last else image

    # Lightning.

    def setup(self, stage: str) -> None:
        """Have the data module select the training targets and regions of this model."""
        data = getattr(self.trainer, "datamodule", None)
        configure_targets = getattr(data, "configure_targets", None)  # other data modules already fit their model
        if configure_targets is not None:
            learned_from = configure_targets(self.needs if stage == "fit" else (), self.regions)
            self.learned_from = learned_from or self.learned_from
        elif stage == "fit":
            self.learned_from = "masks" if "mask" in self.needs else "image-level labels"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log and return the training loss."""
        self._fit_to_grid(batch)
        self.tiling.remember((int(batch["image"].shape[-2]), int(batch["image"].shape[-1])))
        batch = join_batch(batch, self.depth) if self.depth else batch
        batch["image"] = self._memory_format(batch["image"])
        loss = self.training_loss(batch)
        self.log_training("train/loss", loss, batch, prog_bar=True)
        return loss

    def log_training(self, name: str, value: Tensor, batch: Batch, prog_bar: bool = False) -> None:
        """Log a number of a training step, a scalar: its mean over all processes; nothing without a Trainer.

        Between the steps that are written, the progress bar shows that of the first process: taking the mean makes
        processes wait for each other.
        """
        trainer, value = self._trainer, value.detach()
        if trainer is None:
            return
        step = self.global_step + 1
        if trainer.world_size > 1 and (step % trainer.log_every_n_steps == 0 or step == trainer.max_steps):  # type: ignore[attr-defined]  # set by Lightning, not declared
            value = trainer.strategy.reduce(value.clone(), reduce_op="mean")
        self.log(name, value, prog_bar=prog_bar, batch_size=len(batch["image"]))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401
        """Ask to stop at the last step: Lightning then validates once more, even if the epoch is not over."""
        if 0 < self.trainer.max_steps <= self.trainer.global_step:
            self.trainer.should_stop = True

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Segment with few samples and steps; log the Dice of cases on the model's grid, ``val/dice``.

        At the end ``val/score`` is logged, too: see :class:`~diffmedseg.models.validation.ValidationScore`.
        """
        few = self.val_num_samples, self.val_num_steps
        drawn, grid, _, size, keys = self._sample(batch["image"], *few, None, self.noise_keys(batch), "none")
        segmentation = self.fuse(drawn, size, grid, keys)
        found, known = sure_part(segmentation, batch)
        self.val_dice.update(found.mask, known["mask"].bool(), batch["case"])
        self.log("val/dice", self.val_dice, on_epoch=True, prog_bar=True, batch_size=len(batch["image"]))
        self.val_score.update(found, known)
        return {"segmentation": segmentation}

    def on_validation_epoch_start(self) -> None:
        """Count images anew."""
        super().on_validation_epoch_start()
        self.val_score.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the score by which checkpoints are chosen, and warn of a model that finds nothing."""
        self.log("val/score", self.val_score.compute())
        problems = self.val_score.find_empty_answers()
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            for problem in problems:
                remedy = _EMPTY_REMEDY + (_DICE_REMEDY if self.rewards_empty_masks else "")
                _log.warning("Step %d: %s %s.", self.global_step, problem, remedy)

    @property
    def rewards_empty_masks(self) -> bool:
        """Whether the loss has a Dice term per image, which an empty answer to an empty mask wins."""
        return False

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Warm the learning rate up, then let it fall as a cosine to the end of training, or stay.

        The learning rate of the encoder is ``encoder_lr`` times that of all else.
        """
        steps = self.trainer.estimated_stepping_batches if self.cosine_decay else math.inf
        factor = warmup_cosine(self.warmup_steps, steps)
        if self.encoder_lr == 1:
            optimizer = self.optimizer(self.parameters())
            schedule = LambdaLR(optimizer, factor)
        else:
            optimizer = self.optimizer(split_encoder(self.parameters(), self.denoiser.encoder_parameters()))
            schedule = LambdaLR(optimizer, [factor, scaled(factor, self.encoder_lr)])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "train/learning_rate"},
        }


def sample_generators(seed: int, keys: Sequence[str], samples: range) -> Generators:
    """Return the generator of each sample of each image, by the samples' numbers."""
    return [[sample_generator(seed, key, s) for s in samples] for key in keys]


def _leave_familiarity_out(module: DiffusionSegmenter, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Let a model be built without the familiarity that its checkpoint has: calibration.yaml does not name it."""
    if module.familiarity is None:
        optional = tuple(f"{prefix}{name}" for name in module.optional_weights)
        for key in [key for key in state_dict if key.startswith(optional)]:
            del state_dict[key]


def _names(kind: str, number: int, usual: Mapping[int, tuple[str, ...]]) -> tuple[str, ...]:
    """Name channels or regions that nobody named."""
    return usual.get(number) or tuple(f"{kind}_{i + 1}" for i in range(number))
