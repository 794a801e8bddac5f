"""The batch that segmenters take, from our data modules or from anybody's."""

from collections.abc import Sequence
from typing import Any, Required, TypedDict

import torch
from torch import Tensor

from diffmedseg.reading.windows import CropWindow


class Batch(TypedDict, total=False):
    """B images and what is known of them.

    A data module of your own gives ``image`` and ``mask``; :func:`complete_batch` adds the rest. Tensors may come from
    any collate function; ``uint8`` images are taken as [0, 255].

    Attributes:
        image: (B, C, H, W), float in [-1, 1].
        mask: (B, K, H, W), in {0, 1}: one channel for each region. In training the mask of one rater, in evaluation
            the majority. DiffSeg, which learns from labels, needs none in training.
        label: (B,), int64: 0 healthy, 1 diseased. Only DiffSeg needs labels.
        healthy: (B, C, H, W): the same images without disease. Only DiffSeg with ``supervision: pairs`` needs them.
        raters: (B, R, K, H, W), in {0, 1}: the masks of all raters. Training needs them where a model learns from all.
            Default in evaluation: ``mask`` as the only rater.
        unsure: (B, 1, H, W), in {0, 1}: pixels whose mask nobody is sure of. No training loss and no score of a
            validation looks at them. Tests score ``reference`` in the field of view. Default: none.
        rater_valid: (B, R), bool: which raters an image has. Default: all.
        reference: B masks (R, K, h, w), uint8, at native resolution, on the CPU; tests are scored on them. Default:
            ``mask``.
        field_of_view: B masks (h, w), bool, or None: nothing is scored outside of them. Default: None.
        window: B windows of the native image that the model is shown, or None for all of it. Default: None.
        id: Names of the images, each unique in its split. Default: numbers in the order of evaluation.
        case: Names of the cases. Images of one case, as slices of a volume, follow each other and are scored together.
            The name keys the noise of its samples; without names the content of the image does. Default: ``id``.
        index: Number of each slice in its case. Default: 0.
        spacing: Distance of native (slices,) rows and columns in mm, or None. Default: None.
        draw: Number of each training image since training began; it keys all randomness about the image. Default: made
            of the step and the position in the global batch.
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
    spacing: list[tuple[float, ...] | None]
    draw: list[int]


_FORMS = {
    "image": "(B, C, H, W), float in [-1, 1]",
    "mask": "(B, K, H, W), in {0, 1}",
    "label": "(B,), 0 for healthy and 1 for diseased",
    "healthy": "(B, C, H, W), float in [-1, 1]",
    "raters": "(B, R, K, H, W), in {0, 1}, the masks of all raters",
    "unsure": "(B, 1, H, W), in {0, 1}, where masks are not sure",
}
_MASKS = ("mask", "raters", "unsure")
_MAPS = ("image", "healthy", *_MASKS)


def check_batch(batch: Any, needs: Sequence[str], channels: int, regions: int, values: bool) -> None:  # noqa: ANN401
    """Refuse a batch that a segmenter cannot take.

    Args:
        batch: What a data loader gave.
        needs: Keys that have to be there.
        channels: C of the model.
        regions: K of the model.
        values: Whether to look at the values, for which a GPU has to be waited for.

    Raises:
        ValueError: Saying what was found and what was expected.
    """
    if not isinstance(batch, dict):
        raise ValueError(f"A batch is a {type(batch).__name__}; expected a dict with {' and '.join(needs)}.")
    for name in needs:
        if name not in batch:
            there = ", ".join(map(str, batch)) or "nothing"
            raise ValueError(f"A batch has no {name}; it has {there}. Have the data set give {name} {_FORMS[name]}.")
    for name in _MAPS:
        shape = tuple(batch[name].shape) if name in batch else None
        of_mask = 1 if name == "unsure" else regions
        expected = ("B", *(["R"] if name == "raters" else []), of_mask if name in _MASKS else channels, "H", "W")
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
    """Refuse masks to score with that hold anything but 0 and 1: rounded one way or another they are other masks.

    Raises:
        ValueError: Saying what was found and what to do.
    """
    for name in ("mask", "raters", "reference"):
        masks: Any = batch.get(name, [])
        for mask in [masks] if isinstance(masks, Tensor) else masks:
            between = mask[(mask != 0) & (mask != 1)]
            if len(between):
                raise ValueError(
                    f"The {name} of a batch holds {float(between[0]):g}; masks to score hold 0 and 1 alone. "
                    "Decide what is foreground, as by (mask > 0.5).float()."
                )


def complete_batch(batch: Batch, numbers: Sequence[int]) -> None:
    """Add what an evaluation batch lacks, in place; see :class:`Batch` for the defaults.

    Args:
        batch: At least image, and mask or reference.
        numbers: One for each image, its own in the split.
    """
    _name_images(batch, numbers)
    batch["index"] = [int(one) for one in batch.get("index", [0] * len(numbers))]
    batch["spacing"] = _rows(batch.get("spacing", [None] * len(numbers)))
    if "mask" in batch:
        batch.setdefault("raters", batch["mask"][:, None])
    _complete_raters(batch)


def complete_reference(batch: Batch) -> None:
    """Add what a test is scored on, in place: native masks, fields of view and windows."""
    nothing: list[None] = [None] * len(batch["image"])
    batch.setdefault("field_of_view", list(nothing))
    batch.setdefault("window", list(nothing))
    masks: Any = batch.get("reference", batch.get("mask"))
    if "reference" not in batch or isinstance(masks, Tensor):
        native = (masks if masks.ndim == 5 else masks[:, None]).to("cpu", torch.uint8)
        batch["reference"] = list(native)


def complete_draws(batch: Batch, first: int, numbers: Sequence[int]) -> None:
    """Add what a training batch lacks, in place.

    Args:
        batch: The batch.
        first: Draws before this step.
        numbers: Position of each image in the batch of all processes.
    """
    _complete_raters(batch)
    draws = [first + number for number in numbers]
    batch["draw"] = [int(one) for one in batch.get("draw", draws)]
    _name_images(batch, draws)


def _complete_raters(batch: Batch) -> None:
    if "raters" in batch:
        batch.setdefault("rater_valid", batch["raters"].new_ones(batch["raters"].shape[:2], dtype=torch.bool))


def _name_images(batch: Batch, numbers: Sequence[int]) -> None:
    given: Any = batch.get("id", batch.get("case"))
    names = [f"image-{number:06d}" for number in numbers] if given is None else list(map(str, _rows(given)))
    batch["id"] = names
    batch["case"] = list(map(str, _rows(batch.get("case", names))))


def _rows(values: Any) -> list[Any]:  # noqa: ANN401
    """Return one value for each image, of what a collate function made of them."""
    if isinstance(values, Tensor):
        return list(values.tolist())
    if values and all(isinstance(value, Tensor) for value in values):  # of tuples: a tensor for each place
        return [tuple(row) for row in torch.stack(list(values), -1).tolist()]
    return list(values)
