"""What segments images, whether it is one model or several: sampling, fusion, test steps and logged names."""

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
from diffmedseg.segmentation import Origin, SampleSet, Segmentation, majority, nest, resize_soft


class Segmenter(BatchedModule, ABC):
    """Gives, for an image, a set of plausible masks, one fused mask, and a map of where the set disagrees.

    A subclass draws samples of images on its grid, and fuses them. Its attributes are those of the arguments of
    :class:`~diffmedseg.models.DiffusionSegmenter`; ``num_steps``, ``seed`` and ``tta`` are None where the members of an
    ensemble have their own.
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
    #: Test-time augmentation with which calibration and contours were fitted.
    fitted_tta: TTA = "none"
    #: What supervision the weights took, in words.
    learned_from: str = "masks"
    #: Whether its samples are maps that were cut at a level found in each: a data set's rule may then cut them anew.
    cuts_maps: bool = False
    #: Where the first weights came from, of a fine-tuned model: Initialisation.as_dict().
    initialisation: dict[str, Any] | None = None
    #: Whether a test logs Dice by itself; a callback that scores more sets it to False for its time.
    scores_its_tests: bool = True
    #: By region, the voxels of the smallest part of a mask that a test scores; None drops nothing.
    smallest: Mapping[str, int] | None = None
    test_dice: nn.ModuleList

    # What a subclass has to say.

    @property
    @abstractmethod
    def title(self) -> str:
        """What people call it."""

    @property
    @abstractmethod
    def papers(self) -> tuple[str, ...]:
        """What describes its method, for whoever cites it."""

    @abstractmethod
    def fewest_samples(self, tta: TTA | None = None) -> int:
        """Return the least number of samples that it can draw, one for each member and view; see :meth:`segment`."""

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
        """Draw samples for images, in evaluation mode, whatever the mode is.

        Args:
            image: (B, C, h, w), in [-1, 1], on the grid and the device.
            keys: One key per image for its noise.
            samples: Numbers of the samples. The noise of a sample is keyed by its number.
            num_steps: Here and in the next two None takes the model's own; see :meth:`segment`.
            seed: See :meth:`segment`.
            tta: See :meth:`segment`.
        """

    @abstractmethod
    def fuse_plainly(self, drawn: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]) -> Segmentation:
        """Fuse and refine what was drawn, without calibration and contours; see :meth:`fuse`."""

    @property
    def members(self) -> "Mapping[str, Segmenter]":
        """The members of an ensemble by name; none of a single model."""
        return {}

    # Segmenting.

    def forward(self, image: Tensor | np.ndarray | Image, **options: Any) -> Segmentation:
        """Segment; see :meth:`segment`, which takes the same."""
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

        The result is a function of image, settings, seed and key: it does not depend on batch size or order, and
        the first of 16 samples is the one of 1.

        Args:
            image: A PIL image, or an array or tensor; see :func:`~diffmedseg.reading.model_range.to_model_range`.
                Float is taken as [-1, 1]. Images are resized to the model's grid, results back. A PIL image is
                segmented upright, by its EXIF orientation, and results are turned back to lie over it.
            num_samples: S; None for the model's own, or one for each member and view where that is more.
            num_steps: Network evaluations per sample; None for the model's own.
            seed: Seed of the noise; None for the model's own.
            keys: One key per image for its noise; None for a key made from the image's content. A network of volumes
                takes images next to each other that have one key for the slices of one volume.
            tta: Test-time augmentation. ``flips`` deals the S samples in turn to four views of the image: as it is, and
                flipped left-right, up-down and both. They are flipped back. This costs as many samples as before, and
                four encodings of the image in place of one. None for the model's own.
            spacing: Distance of slices, rows and columns in mm, where the images are all slices of one volume, in their
                order. Then all have one key, so that a sample is one volume, and :meth:`Segmentation.volume_ml` knows
                the size of a voxel. A model of square pixels shows slices by it, and takes images without spacing for
                such of square pixels. The model's ``slice_correlation`` says how alike their noise is. A network of
                volumes always takes images without keys for one volume.

        Raises:
            ValueError: If the image does not fit the model, there are fewer samples than members and views, or
                ``spacing`` or the keys are not those of a volume; the message says why.
        """
        start, size_of_voxels = time.perf_counter(), None if spacing is None else check_spacing(spacing, keys)
        self._warn_of_misfits(num_samples, num_steps, tta)
        drawn, grid, window, size, keys = self._sample(image, num_samples, num_steps, seed, keys, tta, size_of_voxels)
        result = self.fuse(drawn, size if window is None else window.size, grid, keys)
        result = result if window is None else result.paste_into(window, size)
        if result.familiarity is not None and self.familiarity and (result.familiarity <= self.familiarity.level).any():
            # Always the same words: Python then says them once.
            warnings.warn(
                "Some images look unlike the images this model was validated on: check that they are the right kind of "
                "image. The result's familiarity says which.",
                stacklevel=3,
            )
        settings = {"num_samples": num_samples, "num_steps": num_steps, "seed": seed, "tta": tta}
        turn = exif_orientation(image)[1] if isinstance(image, Image) else 1
        return replace(result, origin=Origin(self, settings, turn, size_of_voxels, time.perf_counter() - start))

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
        """Draw alone; see :meth:`segment`, which fuses what was drawn."""
        self._warn_of_misfits(num_samples, num_steps, tta)
        return self._sample(image, num_samples, num_steps, seed, keys, tta)[0]

    def count_samples(self, num_samples: int | None = None, tta: TTA | None = None) -> int:
        """Return S as :meth:`segment` takes it: at least one sample for each member and view.

        Raises:
            ValueError: If ``num_samples`` is given, and below that.
        """
        fewest = self.fewest_samples(tta)
        if num_samples is None:
            return max(self.num_samples, fewest)
        if num_samples < fewest:
            what = f"there are {fewest} members and views" if fewest > 1 else "it has to be at least 1"
            remedy = f": take at least {fewest} samples, or fewer members or views" if fewest > 1 else ""
            raise ValueError(f"num_samples is {num_samples}, and {what}{remedy}.")
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
            keys = [blake2b(row.cpu().numpy().tobytes(), digest_size=8).hexdigest() for row in image]
            if spacing or self.depth:
                keys = [blake2b("".join(keys).encode(), digest_size=8).hexdigest()] * len(keys)
        if spacing is not None:
            keys = slice_keys(keys[0], range(len(keys)), spacing[0], self.slice_correlation)
        if len(keys) != len(image):
            raise ValueError(f"There are {len(image)} images and {len(keys)} keys; each image needs one.")
        window = None
        if self.slice_input is not None:
            window = self.slice_input.window(size, (1.0, 1.0) if spacing is None else spacing[1:], self.image_size)
        if window is not None and turn != 1:
            raise ValueError(
                "The image is turned by its EXIF orientation, and this model takes slices: save it upright."
            )
        shown = (image if window is None else window.cut(image, -1.0)).to(self.device)
        grid = shown if tuple(shown.shape[-2:]) == self.image_size else to_grid(shown, self.image_size)
        drawn = self.draw(grid, keys, range(num_samples), num_steps, self.seed if seed is None else seed, tta)
        drawn = drawn.map(partial(turn_back, orientation=turn))
        return drawn, turn_back(grid, turn), window, size if turn < 5 else size[::-1], keys

    def _warn_of_misfits(self, num_samples: int | None, num_steps: int | None, tta: TTA | None) -> None:
        """Warn of what was fitted to validation cases with other settings than these."""
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

    def fuse(self, drawn: SampleSet, size: tuple[int, int], image: Tensor, keys: Sequence[str]) -> Segmentation:
        """Fuse what was drawn into a segmentation, by the model's own rule, refinement and calibration.

        Args:
            drawn: Samples, and the prior where there is one.
            size: Height and width of the result.
            image: (B, C, h, w), in [-1, 1], on the model's grid: what the refinement sees.
            keys: One key per image, of the refinement's randomness.
        """
        fused, familiarity = self.fuse_plainly(drawn, size, image, keys), None
        if self.familiarity is not None and drawn.features is not None and not self.familiarity.by_slices:
            familiarity = self.familiarity(drawn.features)
        return self._finish(replace(fused, familiarity=familiarity))

    def at_size(self, segmentation: Segmentation, size: tuple[int, int]) -> Segmentation:
        """Resize the maps of a segmentation, which may be that of another rule than the model's own.

        A probability is resized before it is calibrated, as in :meth:`fuse`: resizing a calibrated one is another.
        """
        plain = segmentation.uncalibrated or segmentation
        probability, mean = (resize_soft(one.float(), size) for one in (plain.probability, plain.samples.mean(1)))
        unrefined = None if plain.unrefined is None else resize_soft(plain.unrefined.float(), size)
        uncertainty, mask = (mean * (1 - mean)).sqrt(), probability > self.threshold
        return self._finish(Segmentation(plain.samples, probability, uncertainty, mask, unrefined, prior=plain.prior))

    def at_reference(self, segmentation: Segmentation, batch: Batch, i: int) -> Segmentation:
        """Resize image i of a test to its reference, or to the window that it shows of the reference.

        The samples were fused once, on the model's grid: this is where a test case gets its one native result.
        """
        reference, window = batch["reference"][i], batch["window"][i]
        size = (int(reference.shape[-2]), int(reference.shape[-1])) if window is None else window.size
        return self.at_size(segmentation[i], size)

    def _finish(self, plain: Segmentation) -> Segmentation:
        """Draw contours and calibrate."""
        inner, outer = (None, None) if self.conformal is None else self.conformal.contours(plain.probability)
        if self.calibration is None:
            return replace(plain, inner=inner, outer=outer)
        probability, unrefined = self.calibration(plain.probability), plain.unrefined
        return replace(
            plain,
            probability=probability,
            mask=probability > self.threshold,
            unrefined=None if unrefined is None else self.calibration(unrefined),
            uncalibrated=plain,
            inner=inner,
            outer=outer,
        )

    def fuse_by(self, fusion: Fusion, drawn: SampleSet, size: tuple[int, int]) -> Segmentation:
        """Fuse what was drawn into a segmentation at ``size`` by a rule, and do no more."""
        drawn = drawn.map(nest) if self.nested else drawn
        samples, prior = drawn.samples, drawn.prior
        probability, mean = fusion(*self._voters(drawn)), samples.mean(1)
        if self.nested:
            probability = nest(probability)
        probability, mean = resize_soft(probability, size), resize_soft(mean, size)
        uncertainty, mask = (mean * (1 - mean)).sqrt(), probability > self.threshold
        return Segmentation(samples, probability, uncertainty, mask, prior=prior)

    def _voters(self, drawn: SampleSet) -> tuple[Tensor, Tensor | None]:
        """Return what is fused, and its weights."""
        return drawn.samples, drawn.weights

    # Lightning.

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Segment; callbacks take ``segmentation`` from the result and may replace it. ``seconds`` is per image.

        Without a callback that scores them, the Dice of cases at native resolution is logged: ``test/dice``, or one for
        each region.
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
        """Log the Dice of a test, of cases of which each may have a size of its own."""
        scores = cast(Sequence[Dice], self.test_dice)
        for i, case in enumerate(batch["case"]):
            reference, window, seen = batch["reference"][i], batch["window"][i], batch["field_of_view"][i]
            size = (int(reference.shape[-2]), int(reference.shape[-1]))
            mask = self.at_reference(segmentation, batch, i).mask
            mask = mask if window is None else window.place(mask, size)
            truth = majority(reference).bool()
            if seen is not None:
                mask, truth = mask & seen, truth & seen
            for k, score in zip(range(len(self.regions)), scores, strict=False):
                score.update(mask[:, k : k + 1], truth[None, k : k + 1], [case])
        for region, score in zip(self.regions, scores, strict=False):  # DiffSeg finds the first alone
            name = f"test/{region}/dice" if len(self.regions) > 1 else "test/dice"
            self.log(name, score, on_epoch=True, batch_size=len(batch["image"]))

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Segmentation:
        """Segment the images of a batch; a batch of images alone will do."""
        if isinstance(batch, Tensor):
            return self.segment(batch)
        check_batch(batch, ("image",), len(self.image_channels), len(self.regions), False)
        return self.segment(batch["image"], keys=batch.get("case"))
