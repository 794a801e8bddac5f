"""Checks of a data set before training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.duplicates import fingerprint, nearly_same, same
from diffmedseg.data.problem import Problem
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.metrics.functional import dice_from_counts
from diffmedseg.segmentation import majority
from diffmedseg.wording import count

#: Edges of the histogram of areas, as shares of the image.
AREA_EDGES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_NEARLY_ALL = 0.9  # share of an image: lesions hardly ever cover so much, and their surroundings often do


@dataclass(frozen=True)
class SplitFacts:
    """Facts of a split. All but ``sizes`` are measured on the model's grid.

    Attributes:
        ids: Names of the items.
        cases: Case of each item.
        sizes: Number of items by native size, "height x width".
        raters: Number of items by number of raters.
        empty: Share of items whose majority mask is empty, by region.
        areas: Histogram of the areas of non-empty majority masks, by region, with the edges ``AREA_EDGES``.
        channels: Least, mean and largest value and standard deviation of each channel, in [0, 255] or [-1, 1].
        agreement: Mean Dice of pairs of raters of the same item, by region; None with one rater.
    """

    ids: list[str]
    cases: list[str]
    sizes: dict[str, int]
    raters: dict[int, int]
    empty: dict[str, float]
    areas: dict[str, list[int]]
    channels: dict[str, dict[str, float]]
    agreement: dict[str, float | None]


@dataclass
class Check:
    """The result of a check.

    Attributes:
        title: Title of the data set.
        splits: Facts of each split.
        problems: Faults and possible faults.
    """

    title: str
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing serious was found."""
        return not any(problem.serious for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a dictionary for JSON."""
        return {
            "title": self.title,
            "passed": self.passed,
            "area_edges": list(AREA_EDGES),
            "splits": {name: vars(facts) for name, facts in self.splits.items()},
            "problems": [vars(problem) for problem in self.problems],
        }


@dataclass(frozen=True)
class _Prints:
    """Fingerprints of the items of a split, to find items that another split has, too."""

    split: str
    ids: list[str]
    cases: list[str]
    patients: list[str]
    digests: list[str]
    thumbnails: Tensor


def check_data(data: SegmentationDataModule, against: SegmentationDataModule | None = None) -> Check:
    """Read a data set; collect its facts and its problems.

    Args:
        data: The data set.
        against: Another data set that must not share images with ``data``.
    """
    check = Check(data.info.title)
    prints = _read(data, check)
    for number, first in enumerate(prints):
        check.problems += _repeated(first, first, first.split, serious=False)
        for second in prints[number + 1 :]:
            # If the splits share ids on purpose (val is the training set), the data module has warned.
            if not set(first.ids) & set(second.ids):
                check.problems += _repeated(first, second, f"{first.split} and {second.split}", serious=True)
    if against is not None:
        other_check = Check(against.info.title)
        for second in _read(against, other_check):
            for first in prints:
                splits = f"{first.split} here and {second.split} of {against.info.title}"
                check.problems += _repeated(first, second, splits, serious=True)
        check.problems += [
            Problem(problem.kind, f"{against.info.title}: {problem.text}", problem.names)
            for problem in other_check.problems
            if problem.serious
        ]
    return check


def _read(data: SegmentationDataModule, check: Check) -> list[_Prints]:
    """Read all splits. An unreadable split is a problem of the check."""
    prints = []
    try:
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
        check.problems += data.find_warnings()
    except DataError as error:
        check.problems.append(Problem("unreadable", str(error), error.names))
    for split, store in data.stores.items():
        prints.append(_read_split(store, split, data, check))
        check.problems += _find_warnings(check.splits[split], split)
    patients = {split_prints.split: set(split_prints.patients) for split_prints in prints}
    shared = patients.get("test", set()) & (patients.get("train", set()) | patients.get("val", set()))
    if shared:
        text = f"{count(len(shared), 'patient')} both in the test set and in training or validation."
        check.problems.append(Problem("patient split apart", text, sorted(shared)))
    return prints


def _read_split(store: ImageStore, split: str, data: SegmentationDataModule, check: Check) -> _Prints:
    info = data.info
    digests, thumbnails, sizes, raters = [], [], Counter[str](), Counter[int]()
    moments: list[Tensor] = []
    areas: dict[str, list[float]] = {region: [] for region in info.regions}
    dice: dict[str, list[float]] = {region: [] for region in info.regions}
    lost: dict[str, int] = {}
    covered: list[str] = []
    for index in track(range(len(store)), f"{info.title}: {split}", disable=len(store) < 200):
        image, masks = store.image(index), store.masks(index)
        digest, thumbnail = fingerprint(image)
        digests.append(digest)
        thumbnails.append(thumbnail)
        sizes["{} x {}".format(*store.size_of(index))] += 1
        raters[len(masks)] += 1
        values = image.double().flatten(1)
        moments.append(torch.stack([values.amin(1), values.mean(1), values.square().mean(1), values.amax(1)]))
        for region, share in zip(info.regions, majority(masks).double().mean((-2, -1)).tolist(), strict=True):
            areas[region].append(share)
        if number := _lost_on_grid(store, index, masks):
            lost[store.ids[index]] = number
        if _covers_nearly_all(masks):
            covered.append(store.ids[index])
        for k, region in enumerate(info.regions):
            dice[region] += [_dice(a[k], b[k]) for a, b in combinations(masks.bool(), 2)]
    check.problems += _find_mask_warnings(split, lost, covered, store)
    stacked = torch.stack(moments)
    low, high = stacked[:, 0].amin(0), stacked[:, 3].amax(0)
    mean, square = stacked[:, 1].mean(0), stacked[:, 2].mean(0)
    check.splits[split] = SplitFacts(
        ids=list(store.ids),
        cases=list(store.cases),
        sizes=dict(sizes.most_common()),
        raters=dict(sorted(raters.items())),
        empty={region: float(np.mean(np.array(shares) == 0)) for region, shares in areas.items()},
        areas={
            region: np.histogram([share for share in shares if share > 0], AREA_EDGES)[0].tolist()
            for region, shares in areas.items()
        },
        channels={
            channel: {
                "least": float(low[c]),
                "mean": float(mean[c]),
                "deviation": float((square[c] - mean[c].square()).clamp(min=0).sqrt()),
                "largest": float(high[c]),
            }
            for c, channel in enumerate(info.channels)
        },
        agreement={region: float(np.mean(scores)) if scores else None for region, scores in dice.items()},
    )
    patients = [data.patient(case) for case in store.cases]
    return _Prints(split, list(store.ids), list(store.cases), patients, digests, torch.stack(thumbnails))


def _lost_on_grid(store: ImageStore, index: int, masks: Tensor) -> int:
    """Count the masks (R, K, H, W) of an item that are empty on the grid but not in the file."""
    empty = ~masks.flatten(2).any(-1)
    return int((empty & store.filled(index)).sum()) if empty.any() else 0


def _covers_nearly_all(masks: Tensor) -> bool:
    """Whether the outermost region of an item fills nearly all of the image and most of its border."""
    outer = majority(masks)[0].bool()
    border = torch.cat([outer[0], outer[-1], outer[:, 0], outer[:, -1]])
    return bool(outer.double().mean() > _NEARLY_ALL and border.double().mean() > 1 / 2)


def _find_mask_warnings(split: str, lost: dict[str, int], covered: list[str], store: ImageStore) -> list[Problem]:
    problems = []
    if lost:
        height, width = store.masks(0).shape[-2:]
        text = (
            f"{split}: {count(sum(lost.values()), 'mask')} with foreground in the file and none on the grid of "
            f"{height} x {width} pixels. A larger image_size keeps small lesions."
        )
        problems.append(Problem("mask lost on the grid", text, list(lost), serious=False))
    if 2 * len(covered) > len(store):
        text = (
            f"{split}: in {len(covered)} of {count(len(store), 'item')} the foreground is more than "
            f"{_NEARLY_ALL:.0%} of the image. Invert the masks if their foreground is black."
        )
        problems.append(Problem("mask nearly everywhere", text, covered, serious=False))
    return problems


def _dice(a: Tensor, b: Tensor) -> float:
    return float(dice_from_counts((a & b).sum(), (a & ~b).sum(), (~a & b).sum()))


def _find_warnings(facts: SplitFacts, split: str) -> list[Problem]:
    """Collect findings that may be harmless."""
    problems = [
        Problem("empty region", f"{split}: {region} is empty in every item.", facts.ids, serious=split == "train")
        for region, share in facts.empty.items()
        if share == 1
    ]
    for channel, values in facts.channels.items():
        if values["deviation"] == 0:
            problems.append(Problem("constant channel", f"{split}: {channel} is the same everywhere.", facts.ids))
    return problems


def _repeated(a: _Prints, b: _Prints, splits: str, serious: bool) -> list[Problem]:
    """Find images that two splits share, or that one split has twice. Slices of one patient may be nearly the same."""
    within = a is b
    kinds: dict[str, Sequence[tuple[int, int]]] = {
        "same id": [] if within else [(a.ids.index(name), b.ids.index(name)) for name in sorted({*a.ids} & {*b.ids})],
        "same image": same(a.digests, None if within else b.digests),
        "nearly same image": nearly_same(a.thumbnails, None if within else b.thumbnails)
        if a.thumbnails.shape[1] == b.thumbnails.shape[1]
        else [],
    }
    seen: set[tuple[int, int]] = set()
    problems = []
    for kind, pairs in kinds.items():
        grouped_by = "patients" if kind == "nearly same image" else "cases"
        first, second = getattr(a, grouped_by), getattr(b, grouped_by)
        new = [(i, j) for i, j in pairs if (i, j) not in seen and not (within and first[i] == second[j])]
        seen |= set(new)
        if new:
            names = [a.ids[i] if a.ids[i] == b.ids[j] else f"{a.ids[i]} = {b.ids[j]}" for i, j in new]
            text = f"{len(new)} pairs: {kind}, in {splits}."
            if same_patient := sum(within and a.patients[i] == b.patients[j] for i, j in new):
                text += f" Pairs of one patient, who is in one split only: {same_patient}."
            problems.append(Problem(kind, text, names, serious))
    return problems
