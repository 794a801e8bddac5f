"""The base of all models that segment, single models and ensembles: sampling, fusion and test steps."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Any, cast

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from diffmedseg.data.batch import Batch, check_batch
from diffmedseg.familiarity import Familiarity, JointFamiliarity
from diffmedseg.keyed_random import slice_keys
from diffmedseg.measuring import check_spacing
from diffmedseg.metrics import Dice
from diffmedseg.models.batches import BatchedModule, to_grid
from diffmedseg.models.fusing import calibrate, masks_to_score, reference_size, segmentation_of
from diffmedseg.models.views import TTA
from diffmedseg.postprocessing.calibration import Calibration
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.fusion import Fusion
from diffmedseg.postprocessing.refinement import Refinement
from diffmedseg.reading.model_range import to_model_range
from diffmedseg.reading.opening import exif_orientation
from diffmedseg.reading.pictures import turn_back
from diffmedseg.reading.slice_input import SliceInput
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import Origin, SampleSet, Segmentation, nest


class Segmenter(BatchedModule, ABC):
    """A model that gives a set of plausible masks of an image, a fused mask, and a map of their disagreement.

    A subclass draws samples on its grid, and fuses them. Its attributes are the arguments of
    :class:`~diffmedseg.models.DiffusionSegmenter`. In an ensemble, ``num_steps``, ``seed`` and ``tta`` are None if each
    member uses its own.
    """

    name: str
    nested: bool
    threshold: float
    num_samples: int
    num_steps: int | None
    seed: int | None
    fusion: Fusion
    refinement: Refinement | None
    calibration: Calibration | None
    conformal: Conformal | None
    familiarity: Familiarity | JointFamiliarity | None
    cropped: bool
    value_range: tuple[float, float] | None
    slice_input: SliceInput | None
    tta: TTA | None
    #: Test-time augmentation that calibration and contours were fitted with.
    fitted_tta: TTA = "none"
    #: Supervision of the weights, in words.
    learned_from: str = "masks"
    #: Whether samples are maps cut at a level of their own; the rule of a data set may then cut the maps again.
    cuts_maps: bool = False
    #: Source of the initial weights of a fine-tuned model: Initialisation.as_dict().
    initialisation: dict[str, Any] | None = None
    #: Whether a test logs Dice. A callback that logs more scores sets it to False during its test.
    scores_its_tests: bool = True
    #: By region, the voxels of the smallest component that a test keeps; None keeps all components.
    smallest: Mapping[str, int] | None = None
    test_dice: nn.ModuleList

    # Methods of a subclass.

    @property
    @abstractmethod
    def title(self) -> str:
        """Name of the model for people."""

    @property
    @abstractmethod
    def papers(self) -> tuple[str, ...]:
        """Papers that describe the method, for citations."""

    @abstractmethod
    def fewest_samples(self, tta: TTA | None = None) -> int:
        """Return the minimum number of samples: one for each member and view; see :meth:`segment`."""

    @abstractmethod
    def draw(
        self,
        image: Tensor,
        keys: Sequence[str],
        samples: range,
        num_steps: int | None,
        seed: int | None,
        tta: TTA | None,
    ) -> SampleSet:
        """Draw samples for images, always in evaluation mode.

        Args:
            image: (B, C, h, w), in [-1, 1], on the model's grid and device.
            keys: One key per image for its noise.
            samples: Numbers of the samples. The number of a sample keys its noise.
            num_steps: See :meth:`segment`; for this and the next two arguments, None takes the model's own.
            seed: See :meth:`segment`.
            tta: See :meth:`segment`.
        """

    @abstractmethod
    def fuse_plainly(
        self, sample_set: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]
    ) -> Segmentation:
        """Fuse and refine samples, without calibration and contours; see :meth:`fuse`."""

    @property
    def members(self) -> "Mapping[str, Segmenter]":
        """The members of an ensemble, by name; empty for a single model."""
        return {}

    # Segmenting.

    def forward(self, image: Tensor | np.ndarray | Image, **options: Any) -> Segmentation:
        """Segment images; see :meth:`segment`, which takes the same arguments."""
        return self.segment(image, **options)

    @torch.inference_mode()
    def segment(
        self,
        image: Tensor | np.ndarray | Image,
        num_samples: int | None = None,
        num_steps: int | None = None,
        seed: int | None = None,
        keys: Sequence[str] | None = None,
        tta: TTA | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Segmentation:
        """Segment images, with or without a Trainer.

        The result depends on image, settings, seed and key alone. It does not depend on the size or order of the batch,
        and the first of 16 samples equals the only sample of ``num_samples=1``.

        Args:
            image: A PIL image, an array or a tensor; see :func:`~diffmedseg.reading.model_range.to_model_range`. Float
                values have to be in [-1, 1]. Images are resized to the model's grid, and results are resized back. A
                PIL image is turned upright by its EXIF orientation, and results are turned back to fit the image.
            num_samples: S; None for the model's own, or for one sample per member and view if these are more.
            num_steps: Network evaluations per sample; None for the model's own.
            seed: Seed of the noise; None for the model's own.
            keys: One key per image for its noise; None for keys from the images' content. For a network of volumes, the
                slices of a volume have one key and stand together.
            tta: Test-time augmentation; None for the model's own. ``flips`` deals the S samples in turn to four views
                of the image: as it is, flipped left-right, flipped up-down, and flipped both ways. The samples are
                flipped back. The cost is the same number of samples, and four encodings of the image instead of one.
            spacing: Distance of slices, rows and columns in mm, if the images are all slices of a volume, in order. All
                slices then have one key, so that a sample is a volume, and :meth:`Segmentation.volume_ml` knows the
                size of a voxel. A model with square pixels resizes slices by their spacing; without spacing, it assumes
                square pixels. The model's ``slice_correlation`` correlates the noise of the slices. A network of
                volumes always takes images without keys as one volume.

        Raises:
            ValueError: If the image does not fit the model, ``num_samples`` is smaller than the number of members and
                views, or ``spacing`` or the keys do not fit a volume.
        """
        start, voxel_size = time.perf_counter(), None if spacing is None else check_spacing(spacing, keys)
        self._warn_of_misfits(num_samples, num_steps, tta)
        sample_set, grid, window, size, keys = self._sample(image, num_samples, num_steps, seed, keys, tta, voxel_size)
        result = self.fuse(sample_set, size if window is None else window.size, grid, keys)
        result = result if window is None else result.paste_into(window, size)
        if result.familiarity is not None and self.familiarity and (result.familiarity <= self.familiarity.level).any():
            # The text is constant, so that Python prints the warning once.
            warnings.warn(
                "Some images look unlike the images this model was validated on: check that they are the right kind of "
                "image. The result's familiarity says which.",
                stacklevel=3,
            )
        settings = {"num_samples": num_samples, "num_steps": num_steps, "seed": seed, "tta": tta}
        turn = exif_orientation(image)[1] if isinstance(image, Image) else 1
        return replace(result, origin=Origin(self, settings, turn, voxel_size, time.perf_counter() - start))

    @torch.inference_mode()
    def sample(
        self,
        image: Tensor | np.ndarray | Image,
        num_samples: int | None = None,
        num_steps: int | None = None,
        seed: int | None = None,
        keys: Sequence[str] | None = None,
        tta: TTA | None = None,
    ) -> SampleSet:
        """Draw samples without fusing them; see :meth:`segment`."""
        self._warn_of_misfits(num_samples, num_steps, tta)
        return self._sample(image, num_samples, num_steps, seed, keys, tta)[0]

    def count_samples(self, num_samples: int | None = None, tta: TTA | None = None) -> int:
        """Return the number of samples of :meth:`segment`: at least one for each member and view.

        Raises:
            ValueError: If ``num_samples`` is smaller than the number of members and views.
        """
        fewest = self.fewest_samples(tta)
        if num_samples is None:
            return max(self.num_samples, fewest)
        if num_samples < fewest:
            if fewest == 1:
                raise ValueError(f"num_samples is {num_samples}; it has to be at least 1.")
            raise ValueError(
                f"num_samples is {num_samples}, and there are {fewest} members and views: take at least {fewest} "
                "samples, or fewer members or views."
            )
        return num_samples

    def _sample(
        self,
        image: Tensor | np.ndarray | Image,
        num_samples: int | None,
        num_steps: int | None,
        seed: int | None,
        keys: Sequence[str] | None,
        tta: TTA | None,
        spacing: tuple[float, float, float] | None = None,
    ) -> tuple[SampleSet, Tensor, CropWindow | None, tuple[int, int], Sequence[str]]:
        """Return the samples, the images on the model's grid, the window that fills it, their size and their keys."""
        num_samples = self.count_samples(num_samples, tta)
        num_steps, tta = self.num_steps if num_steps is None else num_steps, self.tta if tta is None else tta
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; it has to be at least 1.")
        turn = exif_orientation(image)[1] if isinstance(image, Image) else 1
        image = to_model_range(image, len(self.image_channels), self.value_range)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        if keys is None:
            keys = _content_keys(image, one_volume=bool(spacing or self.depth))
        if spacing is not None:
            keys = slice_keys(keys[0], range(len(keys)), spacing[0], self.slice_correlation)
        if len(keys) != len(image):
            raise ValueError(f"There are {len(image)} images and {len(keys)} keys; each image needs one.")
        window = None
        if self.slice_input is not None:
            window = self.slice_input.window(size, (1.0, 1.0) if spacing is None else spacing[1:], self.image_size)
        if window is not None and turn != 1:
            raise ValueError(
                "The image has an EXIF orientation that turns it; this model takes slices. Save the image upright."
            )
        windowed = (image if window is None else window.cut(image, -1.0)).to(self.device)
        grid = windowed if tuple(windowed.shape[-2:]) == self.image_size else to_grid(windowed, self.image_size)
        sample_set = self.draw(grid, keys, range(num_samples), num_steps, self.seed if seed is None else seed, tta)
        sample_set = sample_set.map(partial(turn_back, orientation=turn))
        return sample_set, turn_back(grid, turn), window, size if turn < 5 else size[::-1], keys

    def _warn_of_misfits(self, num_samples: int | None, num_steps: int | None, tta: TTA | None) -> None:
        """Warn if calibration or contours were fitted with other settings."""
        num_samples, fitted = self.count_samples(num_samples, tta), self.conformal
        num_steps, tta = self.num_steps if num_steps is None else num_steps, self.tta if tta is None else tta
        if fitted is not None and (num_samples, num_steps) != (fitted.num_samples, fitted.num_steps):
            warnings.warn(
                f"Contours and intervals of area were fitted with {fitted.num_samples} samples of {fitted.num_steps} "
                f"steps, and need not hold with {num_samples} of {num_steps}.",
                stacklevel=4,
            )
        if (fitted is not None or self.calibration is not None) and tta != self.fitted_tta:
            warnings.warn(
                f"Calibration, contours and intervals of area were fitted with tta={self.fitted_tta}, and need not "
                f"hold with tta={tta}: calibrate the run with the same --tta.",
                stacklevel=4,
            )

    # Fusing.

    def fuse(self, sample_set: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]) -> Segmentation:
        """Fuse samples into a segmentation, with the model's fusion, refinement and calibration.

        Args:
            sample_set: The samples, and the prior if there is one.
            size: Height and width of the result.
            image: (B, C, h, w), in [-1, 1], on the model's grid; for the refinement.
            keys: One key per image for the randomness of the refinement.
        """
        fused, familiarity = self.fuse_plainly(sample_set, size, image, keys), None
        if self.familiarity is not None and sample_set.features is not None and not self.familiarity.by_slices:
            familiarity = self.familiarity(sample_set.features)
        return self._calibrate(replace(fused, familiarity=familiarity))

    def fuse_by(self, fusion: Fusion, sample_set: SampleSet, size: tuple[int, int]) -> Segmentation:
        """Fuse samples by any fusion into a segmentation of a size, without refinement, calibration and contours."""
        sample_set = sample_set.map(nest) if self.nested else sample_set
        probability = fusion(*self._voters(sample_set))
        probability = nest(probability) if self.nested else probability
        return segmentation_of(sample_set.samples, probability, size, self.threshold, prior=sample_set.prior)

    def at_size(self, segmentation: Segmentation, size: tuple[int, int]) -> Segmentation:
        """Resize the maps of a segmentation, of the model's own or any other fusion.

        As in :meth:`fuse`, the probability is resized before calibration: the order changes the result.
        """
        plain = segmentation.uncalibrated or segmentation
        samples, probability = plain.samples, plain.probability
        return self._calibrate(
            segmentation_of(samples, probability, size, self.threshold, plain.unrefined, plain.prior)
        )

    def at_reference(self, segmentation: Segmentation, batch: Batch, i: int) -> Segmentation:
        """Resize the segmentation of image i of a test to the part of its reference that the image shows.

        The samples were fused once, on the model's grid; this gives a test case its only result at native resolution.
        """
        return self.at_size(segmentation[i], reference_size(batch, i))

    def _calibrate(self, segmentation: Segmentation) -> Segmentation:
        return calibrate(segmentation, self.calibration, self.conformal, self.threshold)

    def _voters(self, sample_set: SampleSet) -> tuple[Tensor, Tensor | None]:
        """Return the masks to fuse, and their weights."""
        return sample_set.samples, sample_set.weights

    # Lightning.

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Segment a batch. Callbacks take ``segmentation`` from the result, and may replace it.

        Unless a callback scores the test, this logs the Dice of cases at native resolution: ``test/dice``, or
        ``test/<region>/dice`` for several regions.

        Returns:
            ``segmentation``, and ``seconds`` per image.
        """
        start = time.perf_counter()
        segmentation = self.segment(batch["image"], keys=self.noise_keys(batch))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = (time.perf_counter() - start) / len(batch["image"])
        if self.scores_its_tests:
            self._score(segmentation, batch)
        return {"segmentation": segmentation, "seconds": seconds}

    def _score(self, segmentation: Segmentation, batch: Batch) -> None:
        """Log the Dice of each test case at its native resolution."""
        scores = cast(Sequence[Dice], self.test_dice)
        for i, case in enumerate(batch["case"]):
            mask, truth = masks_to_score(self.at_reference(segmentation, batch, i).mask, batch, i)
            for k, score in zip(range(len(self.regions)), scores, strict=False):
                score.update(mask[:, k : k + 1], truth[None, k : k + 1], [case])
        for region, score in zip(self.regions, scores, strict=False):  # DiffSeg has the first region alone
            name = f"test/{region}/dice" if len(self.regions) > 1 else "test/dice"
            self.log(name, score, on_epoch=True, batch_size=len(batch["image"]))

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Segmentation:
        """Segment the images of a batch; the batch may be a tensor of images."""
        if isinstance(batch, Tensor):
            return self.segment(batch)
        check_batch(batch, ("image",), len(self.image_channels), len(self.regions), False)
        return self.segment(batch["image"], keys=batch.get("case"))


def _content_keys(image: Tensor, one_volume: bool) -> list[str]:
    """Return keys from the content of images (B, C, H, W): one key each, or one key of all slices of a volume."""
    keys = [blake2b(row.cpu().numpy().tobytes(), digest_size=8).hexdigest() for row in image]
    return [blake2b("".join(keys).encode(), digest_size=8).hexdigest()] * len(keys) if one_volume else keys
