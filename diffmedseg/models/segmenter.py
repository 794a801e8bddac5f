"""The base of all models that are trained: their arguments."""

from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from diffmedseg.errors import ExportError
from diffmedseg.familiarity import Familiarity
from diffmedseg.metrics import Dice
from diffmedseg.models.arguments import (
    check_encoder_lr,
    check_network,
    check_noise,
    check_threshold,
    choose_counts,
    default_names,
)
from diffmedseg.models.denoiser import Condition, Denoiser
from diffmedseg.models.graph_sampler import GraphSampler
from diffmedseg.models.optimisation import SharedFactory
from diffmedseg.models.recommended import Recommend
from diffmedseg.models.stored import StoredModule
from diffmedseg.models.tiling import Tiling, Window
from diffmedseg.models.training import TrainedSegmenter
from diffmedseg.models.validation import ValidationScore
from diffmedseg.models.views import TTA, views_of
from diffmedseg.postprocessing.calibration import Calibration
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.fusion import Fusion, MeanFusion
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.reading.slice_input import SliceInput

_LEVELS = 2**16  # steps of the search for a threshold; float32 holds each level exactly

#: Arguments that checkpoints store by the value that the constructor chose.
_SETTLED = (
    *("num_samples", "num_steps", "val_num_samples", "val_num_steps"),
    *("channels", "regions", "fusion", "refinement"),
)


class DiffusionSegmenter(StoredModule, TrainedSegmenter, ABC):
    """A model that segments with one network; see :class:`~diffmedseg.models.Segmenter`.

    A subclass computes the training loss of a batch, and draws samples for images.

    Args:
        denoiser: The network.
        image_size: Height and width of the model's grid.
        channels: Names of the image's channels, in order; None for default names.
        regions: Names of the mask's regions, in order; None for default names.
        nested: Whether each region lies within the region before it.
        fusion: Fuses samples into a probability; None for their mean.
        threshold: The mask is where the probability is higher.
        num_samples: S in testing and prediction. For this and the next three arguments, None takes the network's
            recommendation.
        num_steps: Network evaluations per sample in testing and prediction.
        val_num_samples: S in validation.
        val_num_steps: Network evaluations per sample in validation.
        optimizer: Makes the optimiser of the parameters.
        warmup_steps: Steps of the linear warm-up of the learning rate.
        cosine_decay: Whether the learning rate then falls as a cosine to zero at the end of training. If a run ends and
            is continued with a larger ``max_steps``, its result differs from a single run with these ``max_steps``.
        seed: Seed of the noise of training and sampling.
        pixels_per_pass: Memory budget of sampling: pixels (rows x H x W) in one pass of the network.
        channels_last: Store feature maps with the channels last: faster on most hardware.
        calibration: Calibrates the fused probability; ``threshold`` applies to the calibrated probability.
        refinement: Refines the fused probability with the image, before calibration. ``recommended`` takes the
            network's recommendation; None refines nothing.
        conformal: Draws an inner and an outer contour with a stated coverage of the true contour.
        familiarity: Detects images that look unlike the validation images.
        cropped: Whether the model takes windows of pictures, such as windows around the optic disc. :meth:`segment`
            then needs such windows.
        value_range: Values of black and white in pictures of more than 8 bits, as in the training data. None takes 0 to
            65,535 for 16 bits, and refuses higher values.
        slice_input: Turns slices of volumes into images, as in the training data; None if each slice is z-scored,
            is an image alone, and fills the grid.
        encoder_lr: Factor on the learning rate of the network's encoder, such as 0.3 for a pretrained encoder.
        tta: Test-time augmentation in testing and prediction; ``flips`` has four views, see :meth:`segment`.
        fitted_tta: Test-time augmentation that calibration and contours were fitted with.
        slice_correlation: Correlation length of the noise over the slices of a volume, in mm. Slices at this distance
            or farther have independent noise, and nearer slices have similar noise. 0 gives each slice independent
            noise; None gives all slices the same noise. Images that are not slices always have independent noise.
    """

    #: First parts of the names of weights that a checkpoint may have and a model may lack.
    optional_weights = ("familiarity.",)
    #: Samples with at most this contrast are empty; for methods that would find something in every image.
    least_contrast: float = 0.0

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
        self.threshold, recommended = check_threshold(threshold), denoiser.recommended
        self.num_samples, self.num_steps, self.val_num_samples, self.val_num_steps = choose_counts(
            recommended, num_samples, num_steps, val_num_samples, val_num_steps
        )
        self.channels = tuple(default_names("channel", denoiser.image_channels) if channels is None else channels)
        self.regions = tuple(default_names("region", denoiser.mask_channels) if regions is None else regions)
        self.nested, self.slice_input = nested, slice_input
        check_network(denoiser, self.image_channels, self.regions, self.depth)
        if len(self.image_channels) > len(self.channels):
            denoiser.share_between_slices(len(self.channels))
        self.encoder_lr = check_encoder_lr(encoder_lr, denoiser)
        for augmentation in (tta, fitted_tta):
            views_of(augmentation)
        self.tta, self.fitted_tta = tta, fitted_tta
        self.slice_correlation = check_noise(slice_correlation, self.depth)
        self.denoiser = denoiser.to(memory_format=self._network_format) if channels_last else denoiser
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.fusion, self.calibration = fusion or MeanFusion(), calibration
        self.refinement = recommended.refinement() if refinement == "recommended" else refinement
        self.conformal, self.familiarity, self.cropped = conformal, familiarity, cropped
        self.value_range = None if value_range is None else (value_range[0], value_range[1])
        self.register_load_state_dict_pre_hook(_leave_familiarity_out)  # type: ignore[no-untyped-call]  # of torch
        self.optimizer, self.warmup_steps, self.cosine_decay = SharedFactory(optimizer), warmup_steps, cosine_decay
        self.seed, self.pixels_per_pass, self.channels_last = seed, pixels_per_pass, channels_last
        self.val_dice, self.val_score = Dice(), ValidationScore()
        self.test_dice = nn.ModuleList(Dice() for _ in self.regions)
        self.tiling = Tiling(self.image_size, denoiser.divisor, self.depth)
        self._settle(**{name: getattr(self, name) for name in _SETTLED})

    def graph_sampler(self, num_steps: int) -> GraphSampler:
        """Return a function from images and noise to the samples of :meth:`draw_samples`, for an exported graph.

        Args:
            num_steps: Network evaluations per sample.

        Raises:
            ExportError: If the method cannot be written as a graph.
            ValueError: If the sampler adds noise in its steps.
        """
        raise ExportError(f"{type(self).__name__} cannot be exported: its method has no form as a graph.")

    def presence(self, image: Tensor, keys: Sequence[str]) -> Tensor | None:
        """Score images by the evidence that they show a region at all.

        Args:
            image: (B, C, H, W), in [-1, 1], on the model's grid.
            keys: One key per image for its noise.

        Returns:
            (B,), to compare with ``least_contrast``; None for methods whose masks can be empty.
        """
        return None

    @property
    def decision_level(self) -> float:
        """The threshold of the probability before calibration; ``threshold`` applies after calibration."""
        if self.calibration is None:
            return self.threshold
        levels = torch.arange(_LEVELS + 1) / _LEVELS
        return max(int((self.calibration(levels) <= self.threshold).sum()) - 1, 0) / _LEVELS

    def _empty_condition(self, part: Window) -> Condition:
        """Return the condition of an image of zeros; it shows the parts of the network's conditions."""
        return self.denoiser.encode(torch.zeros(1, len(self.channels), *self.image_size, device=self.device)[part])


def _leave_familiarity_out(module: DiffusionSegmenter, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Ignore the familiarity in a checkpoint if the model was built without: calibration.yaml does not name it."""
    if module.familiarity is None:
        optional = tuple(f"{prefix}{name}" for name in module.optional_weights)
        for key in [key for key in state_dict if key.startswith(optional)]:
            del state_dict[key]
