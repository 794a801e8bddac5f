"""The batch that segmenters take, from any data module."""

from collections.abc import Sequence
from typing import Any, Required, TypedDict

import torch
from torch import Tensor

from diffmedseg.reading.windows import CropWindow


class Batch(TypedDict, total=False):
    """B images with masks, labels and metadata.

    Your own data module needs to give only ``image`` and ``mask``; :func:`complete_batch` adds the rest. Any collate
    function works. Images of type ``uint8`` are in [0, 255].

    Attributes:
        image: (B, C, H, W), float in [-1, 1].
        mask: (B, K, H, W), in {0, 1}: one channel for each region. In training the mask of one rater, in evaluation
            the majority. DiffSeg learns from labels and needs no mask in training.
        label: (B,), int64: 0 healthy, 1 diseased. Only DiffSeg needs labels.
        healthy: (B, C, H, W): the same images without disease. Only DiffSeg with ``supervision: pairs`` needs them.
        raters: (B, R, K, H, W), in {0, 1}: the masks of all raters. Models that learn from all raters need it in
            training. Default in evaluation: ``mask`` as the only rater.
        unsure: (B, 1, H, W), in {0, 1}: pixels whose mask is uncertain. Training losses and validation scores ignore
            these pixels. Tests score ``reference`` in the field of view. Default: none.
        rater_valid: (B, R), bool: which raters an image has. Default: all.
        reference: B masks (R, K, h, w), uint8, at native resolution, on the CPU, for the scores of tests. Default:
            ``mask``.
        field_of_view: B masks (h, w), bool, or None: pixels outside of it are not scored. Default: None.
        window: B windows of the native images that the model sees, or None for whole images. Default: None.
        id: Names of the images, each unique in its split. Default: numbers in the order of evaluation.
        case: Names of the cases. Images of one case (such as the slices of a volume) follow each other and are scored
            together. The name keys the noise of the samples; without names, the content of the image keys it.
            Default: ``id``.
        index: Number of each slice in its case. Default: 0.
        num_slices: Number of slices of each case, with slices that are no images of the split. HD95 of an empty mask is
            the diagonal of all these slices. Default: up to the last slice that is an image.
        spacing: Distance of native (slices,) rows and columns in mm, or None. Default: None.
        draw: Number of each training image since training began; it keys all randomness of the image. Default: computed
            from the step and the position in the global batch.
    """

    image: Required[Tensor]
    mask: Tensor
    label: Tensor
    healthy: Tensor
    raters: Tensor
    unsure: Tensor
    rater_valid: Tensor
    reference: list[Tensor]
    field_of_view: list[Tensor | None]
    window: list[CropWindow | None]
    id: list[str]
    case: list[str]
    index: list[int]
    num_slices: list[int]
    spacing: list[tuple[float, ...] | None]
    draw: list[int]


_FORMS = {
    "image": "(B, C, H, W), float in [-1, 1]",
    "mask": "(B, K, H, W), in {0, 1}",
    "label": "(B,), 0 for healthy and 1 for diseased",
    "healthy": "(B, C, H, W), float in [-1, 1]",
    "raters": "(B, R, K, H, W), in {0, 1}, the masks of all raters",
    "unsure": "(B, 1, H, W), in {0, 1}, where masks are uncertain",
}
_MASKS = ("mask", "raters", "unsure")
_MAPS = ("image", "healthy", *_MASKS)


def check_batch(batch: Any, needs: Sequence[str], channels: int, regions: int, values: bool) -> None:  # noqa: ANN401
    """Refuse a batch that a segmenter cannot take.

    Args:
        batch: The batch of a data loader.
        needs: Keys that the batch needs.
        channels: C of the model.
        regions: K of the model.
        values: Whether to check the range of values. The check waits for the GPU.

    Raises:
        ValueError: If a key is missing, or a shape or range is wrong.
    """
    if not isinstance(batch, dict):
        raise ValueError(f"A batch is a {type(batch).__name__}; expected a dict with {' and '.join(needs)}.")
    for name in needs:
        if name not in batch:
            keys = ", ".join(map(str, batch)) or "nothing"
            raise ValueError(f"A batch has no {name}; it has {keys}. Have the data set give {name} {_FORMS[name]}.")
    for name in _MAPS:
        shape = tuple(batch[name].shape) if name in batch else None
        mask_channels = 1 if name == "unsure" else regions
        expected = ("B", *(["R"] if name == "raters" else []), mask_channels if name in _MASKS else channels, "H", "W")
        if shape is not None and (len(shape) != len(expected) or shape[-3] != expected[-3]):
            raise ValueError(f"The {name} of a batch has shape {shape}; expected ({', '.join(map(str, expected))}).")
    if not values:
        return
    for name in _MAPS:
        low, high = (0, 1) if name in _MASKS else (-1, 1)
        if name in batch and (name in _MASKS or batch[name].is_floating_point()):
            least, most = (float(value) for value in batch[name].float().aminmax())
            if not (least >= low - 1e-3 and most <= high + 1e-3):
                raise ValueError(
                    f"The {name} of a batch spans {least:g} to {most:g}; expected {_FORMS[name]}. Scale it, or give "
                    f"{'one channel in {0, 1} for each region' if name in _MASKS else 'uint8 in [0, 255]'}."
                )


def check_binary(batch: Batch) -> None:
    """Refuse reference masks with values other than 0 and 1: rounding them would change the scores.

    Raises:
        ValueError: If a mask has another value.
    """
    for name in ("mask", "raters", "reference"):
        masks: Any = batch.get(name, [])
        for mask in [masks] if isinstance(masks, Tensor) else masks:
            invalid = mask[(mask != 0) & (mask != 1)]
            if len(invalid):
                raise ValueError(
                    f"The {name} of a batch has the value {float(invalid[0]):g}; reference masks have only 0 and 1. "
                    "Threshold the masks, for example by (mask > 0.5).float()."
                )


def complete_batch(batch: Batch, numbers: Sequence[int]) -> None:
    """Add the missing keys of an evaluation batch, in place; see :class:`Batch` for the defaults.

    Args:
        batch: At least image, and mask or reference.
        numbers: Number of each image in the split.
    """
    _name_images(batch, numbers)
    batch["index"] = [int(index) for index in batch.get("index", [0] * len(numbers))]
    batch["num_slices"] = [int(number) for number in batch.get("num_slices", [0] * len(numbers))]
    batch["spacing"] = _rows(batch.get("spacing", [None] * len(numbers)))
    if "mask" in batch:
        batch.setdefault("raters", batch["mask"][:, None])
    _complete_raters(batch)


def complete_reference(batch: Batch) -> None:
    """Add the missing keys that the scores of a test need, in place: native masks, fields of view and windows."""
    defaults: list[None] = [None] * len(batch["image"])
    batch.setdefault("field_of_view", list(defaults))
    batch.setdefault("window", list(defaults))
    masks: Any = batch.get("reference", batch.get("mask"))
    if "reference" not in batch or isinstance(masks, Tensor):
        native = (masks if masks.ndim == 5 else masks[:, None]).to("cpu", torch.uint8)
        batch["reference"] = list(native)


def complete_draws(batch: Batch, first: int, numbers: Sequence[int]) -> None:
    """Add the missing keys of a training batch, in place.

    Args:
        batch: The batch.
        first: Number of draws before this step.
        numbers: Position of each image in the global batch of all processes.
    """
    _complete_raters(batch)
    draws = [first + number for number in numbers]
    batch["draw"] = [int(draw) for draw in batch.get("draw", draws)]
    _name_images(batch, draws)


def _complete_raters(batch: Batch) -> None:
    if "raters" in batch:
        batch.setdefault("rater_valid", batch["raters"].new_ones(batch["raters"].shape[:2], dtype=torch.bool))


def _name_images(batch: Batch, numbers: Sequence[int]) -> None:
    ids: Any = batch.get("id", batch.get("case"))
    names = [f"image-{number:06d}" for number in numbers] if ids is None else list(map(str, _rows(ids)))
    batch["id"] = names
    batch["case"] = list(map(str, _rows(batch.get("case", names))))


def _rows(values: Any) -> list[Any]:  # noqa: ANN401
    """Return one value for each image, from the output of any collate function."""
    if isinstance(values, Tensor):
        return list(values.tolist())
    if values and all(isinstance(value, Tensor) for value in values):  # tuples: one tensor for each position
        return [tuple(row) for row in torch.stack(list(values), -1).tolist()]
    return list(values)
