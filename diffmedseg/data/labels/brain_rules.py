"""Parts of a mask rule for brain MRI: the brain's field, its symmetry, and lesions that last over slices."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffmedseg.configurable import Configurable
from diffmedseg.errors import unknown

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]
Axis = Literal["rows", "columns"]

_AIR = 0.0005  # values in [0, 1] below this are 0 up to rounding


class BrainField(Configurable):
    """Finds the brain in a slice: its largest part that is not air, with holes filled, without its rim.

    The rim is left out because skull, membranes and rounding errors of a brain mask are bright there.

    Args:
        rim: Width of the rim, as a share of the shorter side.

    Raises:
        ValueError: If ``rim`` is out of range.
    """

    def __init__(self, rim: float = 0.03) -> None:
        if not 0 <= rim < 0.5:
            raise ValueError(f"rim is {rim}; it has to be in [0, 0.5).")
        self.rim = rim

    def __call__(self, image: Map) -> Mask:
        """Find the brain.

        Args:
            image: (C, H, W), in [0, 1]; 0 is air.

        Returns:
            (H, W), True in the brain; False everywhere if the slice shows only air.
        """
        from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

        parts, number = label(np.any(image > _AIR, axis=0))
        if number == 0:
            return np.zeros(image.shape[1:], dtype=np.bool_)
        head = binary_fill_holes(parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()))
        depth = distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]  # what lies beyond the image is air
        brain: Mask = head & (depth > self.rim * min(head.shape))
        return brain


class MirrorSymmetry(Configurable):
    """Lowers evidence that the mirrored position of the brain shows as well, as ventricles and cortex do.

    The mirror stands in the middle of the visible field.

    Args:
        axis: Axis of the image that crosses the midline: ``columns`` if left and right are side by side.
        weight: Share of the mirrored evidence that is subtracted. At 1, lesions across the midline vanish.
        tolerance: Radius around the mirrored position in which the highest evidence counts, as a share of the shorter
            side. Brains are not exactly symmetric.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, axis: Axis = "columns", weight: float = 1.0, tolerance: float = 0.03) -> None:
        if axis not in get_args(Axis):
            raise ValueError(unknown("axis", axis, list(get_args(Axis))))
        if not (0 < weight <= 1 and 0 <= tolerance < 0.5):
            raise ValueError(
                f"weight is {weight} and tolerance {tolerance}; weight has to be in (0, 1], and tolerance in [0, 0.5)."
            )
        self.axis, self.weight, self.tolerance = axis, weight, tolerance

    def __call__(self, evidence: Map, seen: Mask) -> Map:
        """Lower symmetric evidence.

        Args:
            evidence: (H, W) or (D, H, W); higher values are more evidence of disease.
            seen: The visible field, the same shape.

        Returns:
            The same shape, at least 0; 0 outside of the field.
        """
        lowered: Map = np.zeros(evidence.shape, dtype=np.float32)
        for index in np.ndindex(evidence.shape[:-2]):
            if not seen[index].any():
                continue
            if self.axis == "rows":
                lowered[index] = self._lower(evidence[index].T, seen[index].T).T
            else:
                lowered[index] = self._lower(evidence[index], seen[index])
        return lowered

    def _lower(self, evidence: Map, seen: Mask) -> Map:
        """Lower the evidence of one slice (H, W) whose columns cross the midline."""
        from scipy.ndimage import maximum_filter

        above: Map = np.where(seen, evidence - evidence[seen].min(), 0).astype(np.float32)
        columns = np.flatnonzero(seen.any(0))
        source = columns[0] + columns[-1] - np.arange(seen.shape[1])
        inside = (source >= 0) & (source < seen.shape[1])
        mirrored = np.where(inside, above[:, source.clip(0, seen.shape[1] - 1)], 0)
        radius = round(self.tolerance * min(seen.shape))
        lowered: Map = (above - self.weight * maximum_filter(mirrored, 2 * radius + 1)).clip(min=0) * seen
        return lowered


class LastingComponent(Configurable):
    """Keeps the connected part of a volume with the most evidence, of the parts that last over several slices.

    A lesion lasts over slices; noise and vessels rarely do.

    Args:
        min_slices: Minimum number of consecutive slices.

    Raises:
        ValueError: If ``min_slices`` is below 1.
    """

    def __init__(self, min_slices: int = 3) -> None:
        if min_slices < 1:
            raise ValueError(f"min_slices is {min_slices}; it has to be at least 1.")
        self.min_slices = min_slices

    def __call__(self, masks: Mask, evidence: Map, positions: Sequence[int]) -> Mask:
        """Choose a part.

        Args:
            masks: (D, H, W), slices of one case, in any order.
            evidence: The same shape, in [0, 1].
            positions: Number of each slice in its case. A part ends where a number is missing.

        Returns:
            (D, H, W), one part; empty if no part lasts.
        """
        from scipy.ndimage import find_objects, label, sum_labels

        rows = np.asarray(positions) - min(positions)
        volume, weights = (np.zeros((rows.max() + 1, *values.shape[1:]), values.dtype) for values in (masks, evidence))
        volume[rows], weights[rows] = masks, evidence
        parts, _ = label(volume)
        lasting = [
            number
            for number, box in enumerate(find_objects(parts), start=1)
            if box[0].stop - box[0].start >= self.min_slices
        ]
        if not lasting:
            return np.zeros_like(masks)
        chosen = lasting[int(np.argmax(sum_labels(weights, parts, lasting)))]
        component: Mask = (parts == chosen)[rows]
        return component
