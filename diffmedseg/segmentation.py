"""The result of segmenting images, and the images that can be segmented."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from diffmedseg.reading.levels import to_eight_bit
from diffmedseg.reading.opening import check_single, why_unusable
from diffmedseg.reading.pictures import turn_upright
from diffmedseg.reading.png import check_rows
from diffmedseg.reading.windows import CropWindow

_AREA_PIXELS = 2**22  # pixels that are counted together: bounds memory


@dataclass(frozen=True)
class Drawn:
    """What a model draws for images, on its grid.

    Attributes:
        samples: (B, S, K, h, w): soft masks in [0, 1] whose decision level is 0.5.
        prior: (B, K, h, w), in [0, 1]: the mask that a condition network has of its own; None where there is none.
        features: (B, F): what the familiarity of the images follows from; None where the model has none.
        weights: (S,), of sum S: what each sample counts where samples are fused; None where all count alike.
        members: What each member of an ensemble drew, on its own grid; empty for a single model.
    """

    samples: Tensor
    prior: Tensor | None = None
    features: Tensor | None = None
    weights: Tensor | None = None
    members: "tuple[Drawn, ...]" = ()

    def each(self, change: Callable[[Tensor], Tensor]) -> "Drawn":
        """Change samples and prior alike."""
        prior = None if self.prior is None else change(self.prior)
        members = tuple(member.each(change) for member in self.members)
        return replace(self, samples=change(self.samples), prior=prior, members=members)

    def only(self, i: int) -> "Drawn":
        """Take one image of the batch."""
        features = None if self.features is None else self.features[i : i + 1]
        return replace(self.each(lambda maps: maps[i : i + 1]), features=features)

    @staticmethod
    def cat(parts: "Sequence[Drawn]") -> "Drawn":
        """Put batches together."""

        def join(maps: list[Tensor | None]) -> Tensor | None:
            there = [one for one in maps if one is not None]
            return torch.cat(there) if there else None

        samples = torch.cat([part.samples for part in parts])
        return Drawn(samples, join([part.prior for part in parts]), join([part.features for part in parts]))

    @staticmethod
    def pool(parts: "Sequence[Drawn]") -> "Drawn":
        """Pool what was drawn of the same images in several ways, such as in several views.

        Sample s is the next one of part s modulo the number of parts, so that the first of many samples are those of
        few. The prior is the mean of the parts' priors, where all have one. All parts weigh alike.

        Args:
            parts: Of the same size; their numbers of samples differ by 1 at most, and do not increase.
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
        return Drawn(
            samples,
            prior,
            torch.cat(features, 1) if features else None,
            None if len(set(counts)) == 1 else weights,
        )


@dataclass(frozen=True)
class Segmentation:
    """A set of masks per image, and what follows from it.

    Attributes:
        samples: (B, S, K, h, w) on the model's grid: soft masks in [0, 1] whose decision level is 0.5.
        probability: (B, K, H, W), in [0, 1], at the input's size: the fused samples.
        uncertainty: (B, K, H, W), in [0, 0.5], at the input's size: the standard deviation of a pixel drawn from
            the samples, sqrt(m (1 - m)) for their mean m. Of binary samples it is their disagreement.
        mask: (B, K, H, W), bool: where ``probability`` exceeds the model's threshold.
        unrefined: (B, K, H, W): the probability before a refinement such as a CRF; None where there was none.
        uncalibrated: The same before calibration; None where there was none.
        inner: (B, K, H, W), bool: the inner contour, filled; see :class:`~diffmedseg.conformal.Conformal`. None where
            the model has none.
        outer: (B, K, H, W), bool: the outer contour, likewise.
        prior: (B, K, h, w) on the model's grid, in [0, 1]: the mask that the condition network has of its own, without
            any noise; None where there is none.
        familiarity: (B,), in (0, 1]: the share of cases at least as unusual as the image, among the validation cases
            and the image itself; see :class:`~diffmedseg.familiarity.Familiarity`. None where the model has none.
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

    def only(self, i: int) -> "Segmentation":
        """Take one image of the batch, on the CPU, as it was before calibration."""
        plain = self.uncalibrated or self
        samples, probability, uncertainty, mask = (
            maps[i : i + 1].cpu() for maps in (plain.samples, plain.probability, plain.uncertainty, plain.mask)
        )
        unrefined, prior = (None if maps is None else maps[i : i + 1].cpu() for maps in (plain.unrefined, plain.prior))
        return Segmentation(samples, probability, uncertainty, mask, unrefined, prior=prior)

    def to(self, device: torch.device | str) -> "Segmentation":
        """Move all maps to a device; Lightning moves predictions to the CPU by this."""

        def move(value: "Tensor | Segmentation | None") -> Any:  # noqa: ANN401
            return None if value is None else value.to(device)

        return Segmentation(**{field.name: move(getattr(self, field.name)) for field in fields(self)})

    def placed(self, window: CropWindow, size: tuple[int, int]) -> "Segmentation":
        """Lay the maps of a window over its picture, in which nothing was found outside; samples stay as they are."""
        probability, uncertainty, mask = (
            window.place(maps, size) for maps in (self.probability, self.uncertainty, self.mask)
        )
        unrefined, inner, outer = (
            None if maps is None else window.place(maps, size) for maps in (self.unrefined, self.inner, self.outer)
        )
        placed = Segmentation(self.samples, probability, uncertainty, mask, unrefined, None, inner, outer, self.prior)
        return replace(placed, familiarity=self.familiarity)

    @property
    def mean(self) -> Tensor:
        """The mean of the soft samples at the input's size, (B, K, H, W): what the set says, however it is fused."""
        height, width = self.probability.shape[-2:]
        return resize_soft(self.samples.mean(1), (int(height), int(width)))

    @property
    def binary_samples(self) -> Tensor:
        """The samples as masks, (B, S, K, h, w), bool."""
        return self.samples > 0.5


def resize_soft(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize soft masks (B, K, h, w) bilinearly to (B, K, *size), antialiased where they shrink."""
    if mask.shape[-2:] == size:
        return mask
    return F.interpolate(mask, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def full_size_samples(samples: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield each soft sample of (B, S, K, h, w) as masks at a size, (B, K, H, W), bool; one at a time."""
    for sample in samples.unbind(1):
        yield resize_soft(sample.float(), size) > 0.5


def sample_areas(samples: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels of the masks of :func:`full_size_samples`, (B, S, K), int64."""
    together = max(_AREA_PIXELS // max(len(samples) * samples.shape[2] * size[0] * size[1], 1), 1)
    areas = []
    for some in torch.split(samples, together, 1):  # many small maps at once: each call costs
        masks = resize_soft(some.flatten(1, 2).float(), size) > 0.5
        areas.append(torch.count_nonzero(masks, (-2, -1)).reshape(some.shape[:3]))
    return torch.cat(areas, 1)


def nest(mask: Tensor) -> Tensor:
    """Make regions nest: (..., K, H, W), each region at most the one before it (soft or boolean)."""
    return mask.cummin(-3).values


def to_model_range(
    image: Tensor | np.ndarray | Image, channels: int, value_range: tuple[float, float] | None = None
) -> Tensor:
    """Bring what a user has into the model's form, (B, C, H, W) float32 in [-1, 1].

    Args:
        image: A PIL image, read as files are: turned upright by its EXIF orientation, brought to 8 bits, converted to
            grey or RGB, with a warning where it may be misread; of a file of several pages pass the ``copy()`` of one.
            Or an array or tensor of shape (H, W), (H, W, C) if uint8, or (C, H, W) or (B, C, H, W). uint8 is taken as
            [0, 255], float as [-1, 1].
        channels: C, the model's channels.
        value_range: What becomes black and white in PIL images of more than 8 bits; see
            :func:`~diffmedseg.reading.levels.to_eight_bit`.

    Raises:
        ValueError: If type, shape, number of channels or range does not fit.
    """
    if isinstance(image, Image):
        image = _from_picture(image, channels, value_range)
    if isinstance(image, str | Path):
        raise ValueError(f"{image} is a path: open it first, with PIL.Image.open.")
    tensor = image if isinstance(image, Tensor) else _as_tensor(image)
    shape = tuple(tensor.shape)
    eight_bit = tensor.dtype == torch.uint8
    if eight_bit:
        if tensor.ndim == 3 and tensor.shape[-1] == channels and tensor.shape[0] != channels:
            tensor = tensor.permute(2, 0, 1)
        tensor = tensor.float() / 127.5 - 1
    elif not tensor.is_floating_point():
        raise ValueError(f"The image is {tensor.dtype}; pass uint8 in [0, 255] or float in [-1, 1].")
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or tensor.shape[1] != channels:
        raise ValueError(
            f"The image has shape {shape}; expected (B, {channels}, H, W), "
            f"({channels}, H, W), or uint8 (H, W, {channels})."
        )
    if tensor.numel() == 0:
        raise ValueError(f"The image has shape {tuple(tensor.shape)}: there is nothing to segment.")
    tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise ValueError("The image holds NaN or infinite values: clean it before segmenting.")
    if tensor.abs().max() > 1 + 1e-3:
        raise ValueError(
            f"A float image is taken as [-1, 1]; this one spans [{tensor.min():.3g}, {tensor.max():.3g}]. "
            "Normalise it as the model's card says, or pass uint8."
        )
    if not eight_bit and tensor.min() >= 0 and tensor.max() > 0:
        warnings.warn(
            "A float image is taken as [-1, 1]; this one has no negative value. If it spans [0, 1], pass "
            "image * 2 - 1 or uint8.",
            stacklevel=3,
        )
    return tensor


def _from_picture(image: Image, channels: int, value_range: tuple[float, float] | None) -> Tensor:
    """Return a picture as (C, H, W), uint8, upright."""
    if channels not in (1, 3):
        raise ValueError(f"A picture has 1 or 3 channels, this model takes {channels}: pass a tensor instead.")
    try:
        check_single(image)
        file = Path(getattr(image, "filename", "") or ".")  # of a picture that was opened by its name
        if file.suffix.lower() == ".png" and file.is_file():
            check_rows(file)
        found = to_eight_bit(image, value_range)
        colours = found.image if found.image.mode == "L" else found.image.convert("RGB")
    except Exception as error:  # Pillow decodes files only now, and raises anything
        raise ValueError(f"The picture cannot be used: {why_unusable(error)}") from error
    for note in found.notes:
        warnings.warn(f"The picture may be misread: {note.text}.", stacklevel=4)
    values = np.atleast_3d(np.array(colours.convert("L" if channels == 1 else "RGB")))
    return turn_upright(torch.from_numpy(values).permute(2, 0, 1), found.turn)


def _as_tensor(array: object) -> Tensor:
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"{type(array).__name__} is no image: pass a PIL image, an array or a tensor; several images one after the "
            "other, or as one tensor (B, C, H, W)."
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"The image's dtype is {array.dtype}; pass uint8 in [0, 255] or float in [-1, 1].")
    # A copy: torch takes neither reversed axes nor another machine's order of bytes, and warns of memory of others.
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
