"""The result of segmenting images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmedseg.reading.windows import CropWindow

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from diffmedseg.figures import Drawing
    from diffmedseg.measuring import VolumeEstimate
    from diffmedseg.models.segmenting import Segmenter

_AREA_PIXELS = 2**22  # pixels that are counted together, to limit memory


@dataclass(frozen=True)
class SampleSet:
    """The samples that a model draws for images, on its grid.

    Attributes:
        samples: (B, S, K, h, w): soft masks in [0, 1] with the decision level 0.5.
        prior: (B, K, h, w), in [0, 1]: the condition network's own mask; None without such a mask.
        features: (B, F): features for the familiarity of the images; None if the model has none.
        weights: (S,), with sum S: weight of each sample in the fusion; None for equal weights.
        members: The samples of each member of an ensemble, on its own grid; empty for a single model.
    """

    samples: Tensor
    prior: Tensor | None = None
    features: Tensor | None = None
    weights: Tensor | None = None
    members: "tuple[SampleSet, ...]" = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> "SampleSet":
        """Apply a function to samples and prior."""
        prior = None if self.prior is None else change(self.prior)
        members = tuple(member.map(change) for member in self.members)
        return replace(self, samples=change(self.samples), prior=prior, members=members)

    def __len__(self) -> int:
        """Return the number of images, B."""
        return len(self.samples)

    def __getitem__(self, i: int) -> "SampleSet":
        """Return the samples of image i, as a batch of one image."""
        i = range(len(self))[i]  # an IndexError if there is no such image
        features = None if self.features is None else self.features[i : i + 1]
        return replace(self.map(lambda maps: maps[i : i + 1]), features=features)

    @staticmethod
    def cat(parts: "Sequence[SampleSet]") -> "SampleSet":
        """Concatenate batches."""

        def join(maps: list[Tensor | None]) -> Tensor | None:
            present = [values for values in maps if values is not None]
            return torch.cat(present) if present else None

        samples = torch.cat([part.samples for part in parts])
        return SampleSet(samples, join([part.prior for part in parts]), join([part.features for part in parts]))

    @staticmethod
    def pool(parts: "Sequence[SampleSet]") -> "SampleSet":
        """Pool samples of the same images from several parts, such as several views.

        The samples of the parts alternate, so that the first samples do not depend on their number. The prior is the
        mean of the priors, if all parts have one. All parts have equal weight.

        Args:
            parts: Parts of the same size. Their numbers of samples differ by at most 1 and do not increase.
        """
        first, counts = parts[0], [part.samples.shape[1] for part in parts]
        if len(parts) == 1:
            return first
        number = sum(counts)
        samples = first.samples.new_empty(len(first.samples), number, *first.samples.shape[2:])
        weights = first.samples.new_empty(number)
        for i, part in enumerate(parts):
            samples[:, i :: len(parts)] = part.samples
            weights[i :: len(parts)] = number / (len(parts) * counts[i])
        priors = [part.prior for part in parts if part.prior is not None]
        prior = torch.stack(priors).mean(0) if len(priors) == len(parts) else None
        features = [part.features for part in parts if part.features is not None]
        return SampleSet(
            samples,
            prior,
            torch.cat(features, 1) if features else None,
            None if len(set(counts)) == 1 else weights,
        )


@dataclass(frozen=True)
class Origin:
    """The origin of a segmentation.

    Attributes:
        model: The model.
        settings: ``num_samples``, ``num_steps``, ``seed`` and ``tta`` of :meth:`Segmenter.segment`.
        orientation: EXIF orientation of the segmented picture; 1 for arrays and tensors.
        spacing: Distances between slices, rows and columns in mm, if the images are the slices of one volume.
        seconds: Time for all images.
    """

    model: "Segmenter"
    settings: Mapping[str, Any]
    orientation: int
    spacing: tuple[float, float, float] | None
    seconds: float


@dataclass(frozen=True)
class Segmentation:
    """A set of masks for each image, and maps derived from the set.

    Attributes:
        samples: (B, S, K, h, w) on the model's grid: soft masks in [0, 1] with the decision level 0.5.
        probability: (B, K, H, W), in [0, 1], at the input's size: the fused samples.
        uncertainty: (B, K, H, W), in [0, 0.5], at the input's size: the standard deviation of a pixel over the samples,
            sqrt(m (1 - m)) with their mean m. For binary samples it is their disagreement.
        mask: (B, K, H, W), bool: where ``probability`` exceeds the model's threshold.
        unrefined: (B, K, H, W): the probability before a refinement such as a CRF; None without a refinement.
        uncalibrated: The segmentation before calibration; None without a calibration.
        inner: (B, K, H, W), bool: the filled inner contour; see :class:`~diffmedseg.postprocessing.Conformal`. None if
            the model has no contours.
        outer: (B, K, H, W), bool: the filled outer contour; None if the model has no contours.
        prior: (B, K, h, w) on the model's grid, in [0, 1]: the condition network's own mask, without noise; None
            without such a mask.
        familiarity: (B,), in (0, 1]: the share of cases at least as unusual as the image, among the validation cases
            and the image itself; see :class:`~diffmedseg.familiarity.Familiarity`. None if the model has none.
        origin: Model and settings of :meth:`Segmenter.segment`; None for other segmentations. It is not pickled.
        window: Window of the image that samples and prior cover; None for the whole image.
    """

    samples: Tensor
    probability: Tensor
    uncertainty: Tensor
    mask: Tensor
    unrefined: Tensor | None = None
    uncalibrated: "Segmentation | None" = None
    inner: Tensor | None = None
    outer: Tensor | None = None
    prior: Tensor | None = None
    familiarity: Tensor | None = None
    origin: Origin | None = None
    window: CropWindow | None = None

    def __len__(self) -> int:
        """Return the number of images, B."""
        return len(self.samples)

    def __getitem__(self, i: int) -> "Segmentation":
        """Return the segmentation of image i, as a batch of one image.

        Its maps are on the CPU. It has no ``origin``, which belongs to all images.
        """
        i = range(len(self))[i]  # an IndexError if there is no such image

        def take(value: Any) -> Any:  # noqa: ANN401
            if isinstance(value, Segmentation):
                return value[i]
            if isinstance(value, CropWindow):
                return value
            return value[i : i + 1].cpu() if isinstance(value, Tensor) else None

        return Segmentation(**{field.name: take(getattr(self, field.name)) for field in fields(self)})

    def to(self, device: torch.device | str) -> "Segmentation":
        """Move all maps to a device. Lightning calls this to move predictions to the CPU."""

        def move(value: Any) -> Any:  # noqa: ANN401
            return value.to(device) if isinstance(value, Tensor | Segmentation) else value

        return Segmentation(**{field.name: move(getattr(self, field.name)) for field in fields(self)})

    def paste_into(self, window: CropWindow, size: tuple[int, int]) -> "Segmentation":
        """Paste the maps of a window into its picture; they are empty outside. Samples do not change."""
        probability, uncertainty, mask = (
            window.place(maps, size) for maps in (self.probability, self.uncertainty, self.mask)
        )
        unrefined, inner, outer = (
            None if maps is None else window.place(maps, size) for maps in (self.unrefined, self.inner, self.outer)
        )
        placed = Segmentation(self.samples, probability, uncertainty, mask, unrefined, None, inner, outer, self.prior)
        return replace(placed, familiarity=self.familiarity, window=window)

    @property
    def mean(self) -> Tensor:
        """The mean of the soft samples at the input's size, (B, K, H, W), independent of the fusion."""
        height, width = self.probability.shape[-2:]
        return resize_soft(self.samples.mean(1), (int(height), int(width)), self.window)

    @property
    def binary_samples(self) -> Tensor:
        """The samples as masks, (B, S, K, h, w), bool."""
        return self.samples > 0.5

    # For notebooks.

    def __repr__(self) -> str:
        from diffmedseg.notebook import describe

        return describe(self)

    def _repr_html_(self) -> str:
        from diffmedseg.notebook import as_html

        return as_html(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model and its settings."""
        return vars(self) | {"origin": None}

    def plot(self, image: "Image | np.ndarray | Tensor", index: int = 0) -> "Drawing":
        """Draw an image with mask and samples, probability and disagreement.

        Args:
            image: The segmented image or images.
            index: Index of the image to draw.

        Raises:
            IndexError: If there is no such image.
            ValueError: If the image and the segmentation have different sizes.
        """
        from diffmedseg.notebook import plot

        return plot(self, image, index)

    def save(self, folder: str | Path, *names: str) -> list[Path]:
        """Write the same files as ``diffmedseg predict`` does for pictures, and return their paths.

        Args:
            folder: A new or empty folder, or a folder with results of the same model and settings.
            names: Name of each image's results. Default: ``image``, or ``image1`` and so on.

        Raises:
            DataError: If the folder has other files, results of these names, or results of other settings.
            ValueError: If the model takes volumes, or the number of names is not the number of images.
        """
        from diffmedseg.prediction.pictures.saving import save

        return save(self, Path(folder), names)

    def volume_ml(self) -> "dict[str, VolumeEstimate]":
        """Return the volume of each region in ml, with an interval if the model is calibrated.

        Raises:
            ValueError: If the size of the voxels is not known; see ``spacing`` of :meth:`Segmenter.segment`.
        """
        from diffmedseg.measuring import volumes_ml

        return volumes_ml(self)


def resize_soft(mask: Tensor, size: tuple[int, int], window: CropWindow | None = None) -> Tensor:
    """Resize soft masks (B, K, h, w) bilinearly to (B, K, *size), with antialiasing for smaller sizes.

    Args:
        mask: The masks.
        size: Height and width of the result.
        window: Window of the result that the masks cover; the result is 0 elsewhere. None for the whole result.
    """
    covered = size if window is None else window.size
    if mask.shape[-2:] != covered:
        mask = F.interpolate(mask, covered, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    return mask if window is None else window.place(mask, size)


def full_size_samples(samples: Tensor, size: tuple[int, int], window: CropWindow | None = None) -> Iterator[Tensor]:
    """Yield the samples (B, S, K, h, w) one at a time, as masks (B, K, H, W), bool; see :func:`resize_soft`."""
    for sample in samples.unbind(1):
        yield resize_soft(sample.float(), size, window) > 0.5


def sample_areas(samples: Tensor, size: tuple[int, int], window: CropWindow | None = None) -> Tensor:
    """Count the pixels of the masks of :func:`full_size_samples`, (B, S, K), int64."""
    together = max(_AREA_PIXELS // max(len(samples) * samples.shape[2] * size[0] * size[1], 1), 1)
    areas = []
    for chunk in torch.split(samples, together, 1):  # fewer calls for many small maps
        masks = resize_soft(chunk.flatten(1, 2).float(), size, window) > 0.5
        areas.append(torch.count_nonzero(masks, (-2, -1)).reshape(chunk.shape[:3]))
    return torch.cat(areas, 1)


def majority(masks: Tensor) -> Tensor:
    """Return the reference mask (K, H, W) of R raters' masks (R, K, H, W), in {0, 1}.

    With two raters the reference is the first rater's mask, as is usual for CHASE and DRIVE. With any other number it
    is the majority of the raters, and a tie counts as foreground.
    """
    if len(masks) == 2:
        return masks[0]
    return (masks.sum(0) * 2 >= len(masks)).to(masks.dtype)


def nest(mask: Tensor) -> Tensor:
    """Limit each region of a mask (..., K, H, W), soft or bool, to the previous region, so that regions are nested."""
    return torch.stack(list(accumulate(mask.unbind(-3), torch.minimum)), -3)  # ONNX has no cummin
