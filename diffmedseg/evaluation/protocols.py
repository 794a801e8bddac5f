"""Scoring protocols of other projects, for comparison with their published scores. They are never headline scores."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import resize

from diffmedseg.errors import DataError
from diffmedseg.evaluation.mask_folders import Pairs, read_grey, read_mask, readers_of
from diffmedseg.metrics.functional import confusion_counts, dice_from_counts, iou_from_counts
from diffmedseg.metrics.lesions import PENALTY_MM, lesion_scores
from diffmedseg.reading.grid import Frame
from diffmedseg.reading.names import VOLUMES
from diffmedseg.reading.volumes import check_same_grid

_SIDE = 256  # px
_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
_DICE_EPS, _IOU_EPS = 1e-4, 1e-6


@dataclass(frozen=True)
class Protocol:
    """Scores of a set of masks by the protocol of another project.

    Attributes:
        policy: The rules of the protocol, in words.
        dice: Dice, in [0, 1].
        iou: IoU, in [0, 1]; None if the protocol has none.
        hd95: HD95 in mm; None if the protocol has none.
        cases: Scores of each case, Dice first; empty if the protocol has no scores of single cases.
    """

    policy: str
    dice: float
    iou: float | None = None
    hd95: float | None = None
    cases: dict[str, tuple[float, ...]] = field(default_factory=dict)


def score_pooled(pairs: Pairs) -> Protocol:
    """Score the pixels of all cases together, as if they were one mask.

    Raises:
        DataError: If masks cannot be read, or differ in size.
    """
    total, readers = torch.zeros(3, dtype=torch.int64), readers_of(pairs)
    for paths in pairs.both.values():
        masks = [torch.from_numpy(read_mask(*pair).values) for pair in zip(paths, readers, strict=True)]
        _check_alike(masks, paths)
        total += torch.stack([n.sum() for n in confusion_counts(*masks)])
    policy = "pixels of all cases together, so that a large lesion counts more than a small one"
    return Protocol(policy, float(dice_from_counts(*total)), float(iou_from_counts(*total)))


def score_medsegdiff(pairs: Pairs) -> Protocol:
    """Score as the released code of MedSegDiff does (scripts/segmentation_env.py, commit b4aee37).

    The prediction is ``NAME_probability`` if it lies beside ``NAME_mask``, as ``diffmedseg predict`` writes them, else
    the file itself. See :func:`released_scores`.

    Raises:
        DataError: If a file cannot be read, or is a volume.
    """
    if pairs.labels is not None:
        raise DataError("The protocol medsegdiff scores probability maps: leave --labels or --protocol medsegdiff out.")
    _, truths = readers_of(pairs)
    cases: dict[str, tuple[float, ...]] = {}
    for name, (predicted, true) in pairs.both.items():
        for path in (predicted, true):
            if path.name.lower().endswith(VOLUMES):
                raise DataError(f"{path} is a volume. The protocol medsegdiff scores pictures: leave --protocol out.")
        soft = torch.from_numpy(read_grey(_probability_of(predicted)).astype("float32"))
        cases[name] = released_scores(soft, torch.from_numpy(read_mask(true, truths).values))
    dice, iou = torch.tensor(list(cases.values()), dtype=torch.float64).mean(0).tolist()
    thresholds = ", ".join(map(str, _THRESHOLDS))
    policy = (
        f"MedSegDiff's released code: each probability map is divided by its maximum, prediction and truth are resized "
        f"to {_SIDE} x {_SIDE}, both are thresholded at {thresholds}, and the scores are averaged; not comparable with "
        "a score at one threshold"
    )
    return Protocol(policy, dice, iou, cases=cases)


def score_brats(pairs: Pairs) -> Protocol:
    """Score volumes lesion by lesion, as in BraTS since 2023; see :func:`lesion_scores`.

    The scores of a case are Dice, HD95, and the numbers of found, missed and false lesions.

    Raises:
        DataError: If a file cannot be read or is no volume, or two files differ in size or position.
    """
    readers = readers_of(pairs)
    cases: dict[str, tuple[float, ...]] = {}
    for name, paths in pairs.both.items():
        predicted, true = (read_mask(*pair) for pair in zip(paths, readers, strict=True))
        if predicted.volume is None or true.volume is None:
            flat = paths[0] if predicted.volume is None else paths[1]
            raise DataError(f"{flat} is a picture. The protocol brats scores lesions of volumes: leave --protocol out.")
        _check_alike([torch.from_numpy(mask.values) for mask in (predicted, true)], paths)
        check_same_grid(Frame.of(predicted.volume), Frame.of(true.volume), *paths)
        cases[name] = astuple(lesion_scores(predicted.values, true.values, true.volume.GetSpacing()[::-1]))
    dice, hd95 = torch.tensor([scores[:2] for scores in cases.values()], dtype=torch.float64).mean(0).tolist()
    policy = (
        "lesion-wise, as in BraTS 2023 for adult glioma: true lesions are joined if they touch after three dilations, "
        f"lesions of 50 mm3 or less do not count, and a missed or false lesion has Dice 0 and HD95 {PENALTY_MM:g} mm"
    )
    return Protocol(policy, dice, hd95=hd95, cases=cases)


def released_scores(prediction: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return Dice and IoU of one picture, as the released code of MedSegDiff computes them.

    A map without foreground counts as empty. The released code divides it by 0, which has the same effect.

    Args:
        prediction: (H, W), at least 0, of any scale.
        truth: (h, w), bool.
    """
    scaled = prediction.float() / prediction.max().clamp(min=torch.finfo(torch.float32).tiny)
    soft, reference = _to_side(scaled), _to_side(truth.to(torch.uint8) * 255).float() / 255
    dice, iou = [], []
    for threshold in _THRESHOLDS:
        a, b = soft > threshold, reference > threshold
        intersection, union = float((a & b).sum()), float((a | b).sum())
        dice.append((2 * intersection + _DICE_EPS) / (float(a.sum() + b.sum()) + _DICE_EPS))
        iou.append((intersection + _IOU_EPS) / (union + _IOU_EPS))
    return sum(dice) / len(dice), sum(iou) / len(iou)


def _to_side(values: Tensor) -> Tensor:
    if tuple(values.shape) == (_SIDE, _SIDE):
        return values
    resized: Tensor = resize(values[None], [_SIDE, _SIDE], antialias=True)[0]
    return resized


def _probability_of(mask: Path) -> Path:
    """Return the probability map beside a mask of ``diffmedseg predict``, or the mask if there is none."""
    name, _, _ = mask.stem.rpartition("_mask")
    beside = mask.with_name(f"{name}_probability{mask.suffix}")
    return beside if name and beside.is_file() else mask


def _check_alike(masks: list[Tensor], paths: tuple[Path, Path]) -> None:
    if masks[0].shape != masks[1].shape:
        sizes = [" x ".join(map(str, mask.shape)) for mask in masks]
        raise DataError(f"{paths[0]} is {sizes[0]}, {paths[1]} {sizes[1]}. Resize predictions to the original.")


#: The protocols by name.
PROTOCOLS: dict[str, Callable[[Pairs], Protocol]] = {
    "brats": score_brats,
    "medsegdiff": score_medsegdiff,
    "pooled": score_pooled,
}
