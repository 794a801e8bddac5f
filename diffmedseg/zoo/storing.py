"""The stored form of an entry's weights: half the size where the model's output stays what it was."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.store import collate
from diffmedseg.errors import DataError, ZooError
from diffmedseg.metrics.functional import dice
from diffmedseg.models.building import whole
from diffmedseg.models.segmenter import DiffusionSegmenter
from diffmedseg.segmentation import Segmentation
from diffmedseg.zoo.registry import Storage, StorageType

#: Images that rounded weights are compared on, at most.
IMAGES = 16
#: Largest allowed differences: of the mean probability and the mean sample of one image, of one image's Dice, and of
#: the mean Dice over all images.
PROBABILITY, DICE, MEAN_DICE = 5e-3, 2e-2, 2e-3
_SEARCHED = 200  # images that are read to find some with foreground


@dataclass(frozen=True)
class CheckImage:
    """An image to compare two sets of weights on.

    Attributes:
        image: (1, C, H, W) in [-1, 1].
        key: What its noise is keyed by.
        mask: Reference, (1, K, H, W) in {0, 1}; None where there is none.
    """

    image: Tensor
    key: str
    mask: Tensor | None = None


def validation_images(model: DiffusionSegmenter, data: SegmentationDataModule) -> list[CheckImage]:
    """Return up to ``IMAGES`` validation images, spread over the split; those with foreground come first.

    Raises:
        DataError: If the data is not there.
        OSError: If it cannot be read.
    """
    data.prepare_data()
    data.setup("validate")
    data.serve((), model.regions)
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
    """Return weights as they are stored, and load them into the model as users will.

    Parameters are rounded to ``dtype``. Buffers, such as the statistics of BatchNorm, are rounded only where this
    changes nothing. Weights in float16 are compared with the given ones on validation images; where the data is not
    there, on the made-up image that an entry holds.

    Args:
        model: Takes the weights; changed in place.
        weights: Of the model, in float32.
        dtype: What parameters become.
        data: The data of the run.
        example: A made-up image, (1, C, H, W) in [-1, 1].

    Raises:
        ZooError: If the weights are not finite in this type, or the output changes by more than is allowed.
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
        images, checked_on = [CheckImage(example, "example")], "one made-up image, because the data was not there"
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
        warnings.simplefilter("ignore")  # what is made up looks unlike the validation cases
        return [model.segment(one.image, keys=[one.key]) for one in images]


def compare(
    images: Sequence[CheckImage],
    before: Sequence[Segmentation],
    after: Sequence[Segmentation],
    dtype: StorageType,
    checked_on: str,
) -> Storage:
    """Return the largest differences between segmentations by two sets of weights.

    Args:
        images: What was segmented.
        before: By the weights in float32.
        after: By the rounded weights.
        dtype: What the weights were rounded to.
        checked_on: What the images are, in words.
    """
    probability = [_mean_difference(a.probability, b.probability) for a, b in zip(before, after, strict=True)]
    samples = [_mean_difference(a.samples, b.samples) for a, b in zip(before, after, strict=True)]
    changes = torch.cat([_dice_change(*three) for three in zip(images, before, after, strict=True)])
    per_image, mean = float(changes.abs().max()), float(changes.mean(0).abs().max())
    values = (max(probability), max(samples), per_image, mean)
    return Storage(dtype, checked_on, *(round(value, 6) for value in values))


def _mean_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def _dice_change(image: CheckImage, before: Segmentation, after: Segmentation) -> Tensor:
    """Return the change of Dice by region, (1, K): against the reference, else of the masks against each other."""
    if image.mask is None:
        return 1 - dice(after.mask, before.mask)
    reference = image.mask.bool()
    return dice(after.mask, reference) - dice(before.mask, reference)


def _refuse_changes(storage: Storage) -> None:
    limits = {
        "The probability of an image": (storage.probability, PROBABILITY),
        "The samples of an image": (storage.samples, PROBABILITY),
        "The Dice of an image": (storage.dice, DICE),
        "The mean Dice": (storage.mean_dice, MEAN_DICE),
    }
    for what, (found, allowed) in limits.items():
        if not found <= allowed:
            raise ZooError(
                f"{what} changes by {found:.4f} where weights are stored as {storage.dtype} (on {storage.checked_on}); "
                f"at most {allowed} is allowed. Export with --dtype float32."
            )
