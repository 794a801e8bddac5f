"""Label maps: one map for all regions of an image, and the codes of its values."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmedseg.errors import DataError
from diffmedseg.wording import first_names

IN_ORDER = "order"
_LARGEST_LABEL = 255  # label maps have 8 bits
# Label of the voxels that lie in a region and in no region inside it; each region lies in the one before it.
_SCHEMES = {
    # BraTS 2012 to 2021: 1 necrotic and non-enhancing core, 2 oedema, 4 enhancing tumour (Bakas et al. 2018,
    # arXiv 1811.02629, section 2.2).
    "brats": {"whole_tumour": 2, "tumour_core": 1, "enhancing_tumour": 4},
    # BraTS 2023, adult glioma: 1 necrotic core, 2 oedema, 3 enhancing tumour (https://www.synapse.org/Synapse:syn51156910).
    "brats2023": {"whole_tumour": 2, "tumour_core": 1, "enhancing_tumour": 3},
}


def label_values(labels: str | None, regions: Sequence[str]) -> dict[str, int] | None:
    """Return the label of each region, in the order of the regions; None if ``labels`` is None.

    Args:
        labels: See :class:`Outputs`.
        regions: The model's regions, from the outermost in.

    Raises:
        DataError: If a region has no label, a label names an unknown region, or two regions have the same label.
    """
    if labels is None:
        return None
    if labels == IN_ORDER:
        return {region: number for number, region in enumerate(regions, 1)}
    values = _SCHEMES.get(labels) or _read_values(labels)
    if set(values) != set(regions):
        raise DataError(
            f"--labels {labels} has labels of {', '.join(values)}; this model's regions are {', '.join(regions)}. "
            f"Give each region a label: {','.join(f'{region}={n}' for n, region in enumerate(regions, 1))}"
        )
    if len(set(values.values())) < len(values):
        raise DataError(f"--labels {labels} gives two regions the same label. Give each region a label of its own.")
    return {region: values[region] for region in regions}


def note_order(labels: str | None, regions: Sequence[str]) -> str:
    """Return a note if a label map's values differ from a challenge's codes for the same regions; else "".

    Args:
        labels: See :func:`label_values`.
        regions: The model's regions, from the outermost in.
    """
    schemes = [name for name, values in _SCHEMES.items() if set(values) == set(regions)]
    if labels != IN_ORDER or not schemes:
        return ""
    return (
        f"label maps have {', '.join(f'{n} for {region}' for n, region in enumerate(regions, 1))}, which are not the "
        f"challenge's codes: --labels {' or --labels '.join(schemes)} writes these"
    )


def _read_values(text: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for part in text.split(","):
        region, _, value = part.partition("=")
        if not (region and value.isascii() and value.isdigit() and 1 <= int(value) <= _LARGEST_LABEL):
            raise DataError(
                f"--labels: {part!r} is not REGION=VALUE with a whole number from 1 to {_LARGEST_LABEL}. Schemes are "
                f"{', '.join(_SCHEMES)}."
            )
        if region in values:
            raise DataError(f"--labels names {region} twice. Give each region one label.")
        values[region] = int(value)
    return values


def draw_labels(masks: Tensor, values: Mapping[str, int], nested: bool) -> Tensor:
    """Draw the masks of all regions into one label map.

    Args:
        masks: (K, ...), bool, from the outermost region in.
        values: Label of each region, in the same order.
        nested: Whether each region lies in the region before it. A voxel then gets the label of the innermost region.

    Returns:
        Shape (...), uint8; 0 is background.

    Raises:
        DataError: If regions that do not nest overlap.
    """
    labels = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for k, (region, value) in enumerate(values.items()):
        if not nested and (overlap := int((masks[k] & (labels > 0)).sum())):
            raise DataError(
                f"its region {region} overlaps another region in {overlap} pixels or voxels, and a label map holds one "
                "label for each: leave --label_map out"
            )
        labels.masked_fill_(masks[k], value)
    return labels


def region_labels(labels: str) -> dict[str, tuple[int, ...]]:
    """Return all values that each region has in label maps.

    Args:
        labels: ``brats`` or ``brats2023``, or ``REGION=VALUE+VALUE,...`` with all values of each region.

    Raises:
        DataError: If ``labels`` has another form.
    """
    if scheme := _SCHEMES.get(labels):
        values = list(scheme.values())
        return {region: tuple(sorted(values[number:])) for number, region in enumerate(scheme)}
    values_by_region: dict[str, tuple[int, ...]] = {}
    for part in labels.split(","):
        region, _, numbers = part.partition("=")
        values = [int(number) if number.isascii() and number.isdigit() else 0 for number in numbers.split("+")]
        if not region or region in values_by_region or not all(1 <= value <= _LARGEST_LABEL for value in values):
            raise DataError(
                f"--labels: {part!r} is not REGION=VALUE+VALUE with whole numbers from 1 to {_LARGEST_LABEL}, or names "
                f"a region twice. Schemes are {', '.join(_SCHEMES)}."
            )
        values_by_region[region] = tuple(sorted(values))
    return values_by_region


def pick_labels(values: NDArray[np.generic], wanted: Collection[int], known: Collection[int]) -> NDArray[np.bool_]:
    """Return where a label map has one of the wanted values.

    Args:
        values: Labels, 0 for background.
        wanted: The values of a region.
        known: The values of all regions.

    Raises:
        DataError: If there are other values.
    """
    if unknown := [value for value in np.unique(values).tolist() if value not in {0, *known}]:
        raise DataError(
            f"it has the label {first_names([f'{value:g}' for value in unknown])}, and --labels has "
            f"{', '.join(map(str, sorted(known)))}. BraTS has 1, 2 and 4 up to 2021 (--labels brats), and 1, 2 and 3 "
            "from 2023 on (--labels brats2023)"
        )
    return np.isin(values, list(wanted))
