"""Which files ``predict`` writes for an image, and the values of label maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmedseg.errors import DataError, unknown

MAPS = ("mask", "probability", "disagreement")
CONTOURS = ("inner", "outer")  # of calibrated models
DICOM = ("mask", "probability", "report")  # objects of --dicom_seg, of all regions each
IN_ORDER = "order"
_LARGEST_LABEL = 255  # label maps have 8 bits
# Label of the voxels that lie in a region and in no region inside it.
_SCHEMES = {
    # BraTS 2012 to 2021: 1 necrotic and non-enhancing core, 2 oedema, 4 enhancing tumour (Bakas et al. 2018,
    # arXiv 1811.02629, section 2.2).
    "brats": {"whole_tumour": 2, "tumour_core": 1, "enhancing_tumour": 4},
    # BraTS 2023, adult glioma: 1 necrotic core, 2 oedema, 3 enhancing tumour (https://www.synapse.org/Synapse:syn51156910).
    "brats2023": {"whole_tumour": 2, "tumour_core": 1, "enhancing_tumour": 3},
}


@dataclass(frozen=True)
class Outputs:
    """Select the files that are written for each image.

    Attributes:
        maps: Maps out of :data:`MAPS` and :data:`CONTOURS`; None for all that the model has.
        samples: Form of the samples: ``image`` for multi-page TIFF or four-dimensional NIfTI, ``npz`` for a NumPy
            archive, None for no samples.
        labels: Values of the label map: ``order`` for 1 to K from the outermost region in, ``brats``, ``brats2023``,
            or ``REGION=VALUE,...``; None for no label map.
        panel: Draw each result over its input.
        pixel_size: Height and width of a pixel in mm, for areas in mm2; None where they are not known.
        dicom_seg: Write the results of a DICOM series as DICOM, too.
    """

    maps: tuple[str, ...] | None = None
    samples: str | None = None
    labels: str | None = None
    panel: bool = False
    pixel_size: tuple[float, float] | None = None
    dicom_seg: bool = False

    def kinds(self, contours: bool) -> tuple[str, ...]:
        """Return the maps that are written.

        Args:
            contours: Whether the model has contours.

        Raises:
            DataError: If there is no such map.
        """
        there = MAPS + (CONTOURS if contours else ())
        for kind in self.maps or ():
            if kind in CONTOURS and not contours:
                raise DataError(
                    f"--maps {kind}: this model has no contours. `diffmedseg calibrate` fits them to a run."
                )
            if kind not in there:
                raise DataError(f"--maps: {unknown('map', kind, there)}")
        return there if self.maps is None else tuple(kind for kind in there if kind in self.maps)


def label_values(labels: str | None, regions: Sequence[str]) -> dict[str, int] | None:
    """Return the label of each region, in the order of the regions; None where no label map is wanted.

    Args:
        labels: See :class:`Outputs`.
        regions: The model's regions, from the outermost in.

    Raises:
        DataError: If a region has no label, is not the model's, or two regions have the same label.
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


def _read_values(text: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for part in text.split(","):
        region, _, value = part.partition("=")
        if not (region and value.isascii() and value.isdigit() and 1 <= int(value) <= _LARGEST_LABEL):
            raise DataError(
                f"--labels: {part!r} is no REGION=VALUE with a whole number from 1 to {_LARGEST_LABEL}. Schemes are "
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
        nested: Whether each region lies in the region before it: the label of the innermost one then stands.

    Returns:
        Shape (...), uint8; 0 is background.

    Raises:
        DataError: If regions that do not nest overlap.
    """
    labels = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for k, (region, value) in enumerate(values.items()):
        if not nested and (both := int((masks[k] & (labels > 0)).sum())):
            raise DataError(
                f"its region {region} overlaps another region in {both} pixels or voxels, and a label map holds one "
                "label per place: leave --label_map out"
            )
        labels.masked_fill_(masks[k], value)
    return labels
