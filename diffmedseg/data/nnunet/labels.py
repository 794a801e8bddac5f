"""Label maps of nnU-Net for regions that may nest or overlap."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmedseg.data.nnunet.description import BACKGROUND, IGNORE

Pattern = tuple[bool, ...]


@dataclass(frozen=True)
class LabelScheme:
    """The values of a label map. Each pattern of regions has its own value.

    Attributes:
        regions: Names of the regions, in the order of the masks.
        values: The value of each pattern of regions.
        order: Numbers of the regions in the order in which nnU-Net draws them, larger regions first.
        codes: The value with which nnU-Net draws each region, in the order of ``regions``.
        ignore: The value of unsure pixels; None if all pixels are sure.
    """

    regions: tuple[str, ...]
    values: Mapping[Pattern, int]
    order: tuple[int, ...]
    codes: tuple[int, ...]
    ignore: int | None

    @property
    def exclusive(self) -> bool:
        """Whether regions never share a pixel."""
        return all(sum(pattern) == 1 for pattern in self.values)

    def as_dict(self) -> dict[str, Any]:
        """Return ``labels`` and, if regions share pixels, ``regions_class_order`` for a dataset.json."""
        labels: dict[str, int | list[int]] = {BACKGROUND: 0}
        for number in self.order:
            values = sorted(value for pattern, value in self.values.items() if pattern[number])
            labels[self.regions[number]] = values[0] if len(values) == 1 else values
        if self.ignore is not None:
            labels[IGNORE] = self.ignore
        order = {} if self.exclusive else {"regions_class_order": [self.codes[number] for number in self.order]}
        return {"labels": labels, **order}

    def draw(self, masks: NDArray[np.uint8], unsure: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Return the label map (...) of masks (K, ...) in {0, 1}. Unsure pixels get the value ``ignore``."""
        bits = pattern_bits(masks)
        table = np.zeros(2 ** len(self.regions), np.uint8)
        for pattern, value in self.values.items():
            table[_bits(pattern)] = value
        label_map: NDArray[np.uint8] = table[bits]
        if unsure is not None and self.ignore is not None:
            label_map[unsure] = self.ignore
        return label_map


def label_scheme(regions: Sequence[str], counts: Mapping[Pattern, int], ignored: bool) -> LabelScheme:
    """Give each pattern of regions a value.

    Args:
        regions: Names of the regions.
        counts: Number of pixels of each pattern, without background.
        ignored: Whether there are unsure pixels.
    """
    sizes = [sum(number for pattern, number in counts.items() if pattern[k]) for k in range(len(regions))]
    exclusive = all(sum(pattern) == 1 for pattern in counts)
    order = sorted(range(len(regions)), key=lambda k: (0 if exclusive else -sizes[k], k))
    ranked = sorted(counts, key=lambda pattern: [pattern[k] for k in reversed(order)])
    missing = [k for k in range(len(regions)) if not any(pattern[k] for pattern in ranked)]
    ranked += [
        tuple(k == other for other in range(len(regions))) for k in missing
    ]  # nnU-Net needs a value for each region
    values = {pattern: number for number, pattern in enumerate(ranked, 1)}
    codes = tuple(values[_drawn_last(k, order, counts, values)] for k in range(len(regions)))
    return LabelScheme(tuple(regions), values, tuple(order), codes, len(values) + 1 if ignored else None)


def _drawn_last(
    region: int, order: Sequence[int], counts: Mapping[Pattern, int], values: Mapping[Pattern, int]
) -> Pattern:
    """Return the commonest pattern in which this region is drawn last; if there is none, the commonest with it."""
    later = order[order.index(region) + 1 :]
    having = [pattern for pattern in values if pattern[region]]
    last = [pattern for pattern in having if not any(pattern[other] for other in later)]
    return max(last or having, key=lambda pattern: (counts.get(pattern, 0), -values[pattern]))


def count_patterns(masks: Iterable[NDArray[np.uint8]]) -> Counter[Pattern]:
    """Count the pixels of each pattern of regions in masks (K, ...) of many cases, without background."""
    counts: Counter[Pattern] = Counter()
    for mask in masks:
        bits, numbers = np.unique(pattern_bits(mask), return_counts=True)
        for value, number in zip(bits.tolist(), numbers.tolist(), strict=True):
            counts[tuple(bool(value >> k & 1) for k in range(len(mask)))] += number
    return Counter({pattern: number for pattern, number in counts.items() if any(pattern)})


def pattern_bits(masks: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return masks (K, ...) in {0, 1} as one number (...) with a bit for each region."""
    bits = np.zeros(masks.shape[1:], np.uint16)
    for k, mask in enumerate(masks):
        bits |= mask.astype(np.uint16) << k
    return bits


def _bits(pattern: Pattern) -> int:
    return sum(2**k for k, inside in enumerate(pattern) if inside)
