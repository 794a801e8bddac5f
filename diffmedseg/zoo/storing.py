"""Store an entry's weights as float16 if the model's output does not change."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.views import collate
from diffmedseg.errors import DataError, ZooError
from diffmedseg.metrics.functional import dice
from diffmedseg.models.building import whole
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.segmentation import Segmentation
from diffmedseg.zoo.registry import Storage, StorageType

#: Maximum number of images on which rounded weights are compared.
IMAGES = 16
#: Largest allowed differences: of the mean probability and the mean sample of an image, of the Dice of a case, and of
#: the mean Dice over all cases.
PROBABILITY, DICE, MEAN_DICE = 5e-3, 2e-2, 2e-3
_SEARCHED = 200  # images that are read to find images with foreground


@dataclass(frozen=True)
class CheckImage:
    """An image for the comparison of two sets of weights.

    Attributes:
        image: (1, C, H, W) in [-1, 1].
        key: Key of its noise: the name of its case. Slices of a volume have the same key.
        mask: Reference, (1, K, H, W) in {0, 1}; None without a reference.
    """

    image: Tensor
    key: str
    mask: Tensor | None = None


def validation_images(model: DiffusionSegmenter, data: SegmentationDataModule) -> list[CheckImage]:
    """Return up to ``IMAGES`` validation images, spread over the split; images with foreground first.

    Raises:
        DataError: If the data is missing.
        OSError: If the data cannot be read.
    """
    data.prepare_data()
    data.setup("validate")
    data.configure_targets((), model.regions)
    view, count = data.evaluation_view("val", native=False), len(data.stores["val"].cases)
    searched = min(count, _SEARCHED)
    order = [(i * count) // searched for i in range(searched)]
    stride = max(searched // IMAGES, 1)
    order = [i for start in range(stride) for i in order[start::stride]]
    full: list[CheckImage] = []
    empty: list[CheckImage] = []
    for index in order:
        batch = data.on_after_batch_transfer(collate([view[index]]), 0)
        kind = full if bool(batch["mask"].any()) else empty
        kind.append(CheckImage(batch["image"], batch["case"][0], batch["mask"]))
        if len(full) == IMAGES:
            break
    return [*full, *empty][:IMAGES]


def store_weights(
    model: DiffusionSegmenter,
    weights: Mapping[str, Tensor],
    dtype: StorageType,
    data: SegmentationDataModule,
    example: Tensor,
) -> tuple[dict[str, Tensor], Storage]:
    """Return the stored weights, and load them into the model.

    Parameters are rounded to ``dtype``. Buffers, such as the statistics of BatchNorm, are rounded only if this changes
    nothing. Rounded and original weights are compared on validation images; without the data, on the example image of
    the entry.

    Args:
        model: Gets the stored weights; changed in place.
        weights: Weights of the model, float32.
        dtype: Type of the stored parameters.
        data: The data of the run.
        example: The example image, (1, C, H, W) in [-1, 1].

    Raises:
        ZooError: If rounded weights are not finite, or the output changes by more than is allowed.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    stored = {name: _rounded(value, dtype, name in parameters) for name, value in weights.items()}
    wrong = [name for name, value in stored.items() if not torch.isfinite(value).all()]
    if wrong:
        remedy = "The run has diverged." if _not_finite(weights) else "Export with --dtype float32."
        raise ZooError(f"{wrong[0]} is not finite as {stored[wrong[0]].dtype}. {remedy}")
    if dtype == "float32":
        model.load_state_dict(stored)
        return stored, Storage(dtype, "not needed", 0.0, 0.0, 0.0, 0.0)
    try:
        images = validation_images(model, data)
        checked_on = f"{len(images)} validation image{'s' * (len(images) != 1)}"
    except (DataError, OSError):
        images, checked_on = [CheckImage(example, "example")], "one made-up image, because the data was not found"
    model.load_state_dict(weights)
    before = _segment_all(model, images)
    model.load_state_dict(whole(stored))
    storage = compare(images, before, _segment_all(model, images), dtype, checked_on)
    _refuse_changes(storage)
    return stored, storage


def _rounded(value: Tensor, dtype: StorageType, is_parameter: bool) -> Tensor:
    if value.is_floating_point():
        value, half = value.float(), value.half()
        if dtype == "float16" and (is_parameter or torch.equal(half.float(), value)):
            value = half
    return value.contiguous()


def _not_finite(weights: Mapping[str, Tensor]) -> bool:
    return any(not torch.isfinite(value).all() for value in weights.values())


def _segment_all(model: DiffusionSegmenter, images: Iterable[CheckImage]) -> list[Segmentation]:
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the example looks unlike the validation cases
        return [model.segment(check.image, keys=[check.key]) for check in images]


def compare(
    images: Sequence[CheckImage],
    before: Sequence[Segmentation],
    after: Sequence[Segmentation],
    dtype: StorageType,
    checked_on: str,
) -> Storage:
    """Return the largest differences between the segmentations of two sets of weights.

    Args:
        images: The images.
        before: Segmentations by the float32 weights.
        after: Segmentations by the rounded weights.
        dtype: Type of the rounded weights.
        checked_on: Description of the images.
    """
    probability = [_mean_difference(a.probability, b.probability) for a, b in zip(before, after, strict=True)]
    samples = [_mean_difference(a.samples, b.samples) for a, b in zip(before, after, strict=True)]
    cases = defaultdict(list)
    for image, a, b in zip(images, before, after, strict=True):
        cases[image.key].append((image, a, b))
    changes = torch.cat([_dice_change(slices) for slices in cases.values()])
    per_case, mean = float(changes.abs().max()), float(changes.mean(0).abs().max())
    values = (max(probability), max(samples), per_case, mean)
    return Storage(dtype, checked_on, *(round(value, 6) for value in values))


def _mean_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def _dice_change(slices: Sequence[tuple[CheckImage, Segmentation, Segmentation]]) -> Tensor:
    """Return the change of a case's Dice against the reference, (1, K); without a reference, 1 - Dice of both masks.

    Slices of a volume count together, as in its scores: in a small slice a single pixel changes Dice by much.
    """
    images, before, after = zip(*slices, strict=True)
    old, new = (torch.cat([result.mask for result in results], -1) for results in (before, after))
    if any(image.mask is None for image in images):
        return 1 - dice(new, old)
    reference = torch.cat([image.mask for image in images], -1).bool()
    return dice(new, reference) - dice(old, reference)


def _refuse_changes(storage: Storage) -> None:
    limits = {
        "The probability of an image": (storage.probability, PROBABILITY),
        "The samples of an image": (storage.samples, PROBABILITY),
        "The Dice of a case": (storage.dice, DICE),
        "The mean Dice": (storage.mean_dice, MEAN_DICE),
    }
    for noun, (delta, allowed) in limits.items():
        if not delta <= allowed:
            raise ZooError(
                f"{noun} changes by {delta:.4f} if weights are stored as {storage.dtype} (on {storage.checked_on}); at "
                f"most {allowed} is allowed. Export with --dtype float32."
            )
