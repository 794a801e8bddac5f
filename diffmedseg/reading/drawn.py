"""Find the masks of outlines that were drawn into a copy of a picture."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmedseg.errors import DataError

# Thresholds on the difference of a colour (of 255) above which a pixel is ink. Faint outlines need low thresholds;
# JPEG adds noise below 25.
_INK = (80, 60, 40, 25)
_BRIDGES = (0, 1, 2, 4)  # pixels by which the ink is grown: gaps of twice as much are closed
_SPECK = 20  # pixels: less ink is noise
_LEAST = 0.005  # of the outer region: smaller holes lie within a line
_RIM = 0.1  # of the outer region: with less area between the outlines, one outline was drawn twice

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def read_nested_outlines(drawn: Path, original: Path) -> Pair:
    """Find two nested outlines from the difference of a picture and its copy with the outlines.

    The border is the middle of a drawn line. Gaps of up to 8 pixels are closed.

    Args:
        drawn: The copy.
        original: The picture.

    Returns:
        Masks (h, w), uint8 in {0, 1}, of the areas within the outer and within the inner outline.

    Raises:
        DataError: If sizes differ, or there are not exactly two nested closed outlines; names the file.
    """
    difference = _difference(drawn, original)
    most_outlines = 0
    for threshold in _INK:
        ink = _without_specks(difference > threshold)
        if not ink.any():
            continue
        for bridge in _BRIDGES:
            masks, num_outlines = _nested(ink, bridge)
            if masks is not None:
                return masks
            most_outlines = max(most_outlines, num_outlines)
    raise DataError(
        f"{drawn} has {most_outlines} closed outlines that differ from {original.name}; expected two, one within the "
        "other. Outlines may be open, touch each other, or be too faint. To leave this rater out, remove this file",
        [drawn.name],
    )


def _difference(drawn: Path, original: Path) -> NDArray[np.int16]:
    """Return the largest difference over the colours of each pixel, (h, w)."""
    from diffmedseg.reading.pictures import read_upright

    first, second = (np.asarray(read_upright(path, 2**20, None)).astype(np.int16) for path in (drawn, original))
    if first.shape != second.shape:
        (height, width), (rows, columns) = first.shape[:2], second.shape[:2]
        raise DataError(
            f"{drawn} has {width} x {height} pixels and {original.name} has {columns} x {rows}: outlines are the "
            "difference of both files. Download them again",
            [drawn.name],
        )
    difference: NDArray[np.int16] = np.abs(first - second).max(-1)
    return difference


def _without_specks(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    parts, _ = label(ink, np.ones((3, 3)))
    large = np.bincount(parts.flat) >= _SPECK
    large[0] = False
    kept: NDArray[np.bool_] = large[parts]
    return kept


def _nested(ink: NDArray[np.bool_], bridge: int) -> tuple[Pair | None, int]:
    """Return the two masks, or None, and the number of closed outlines."""
    from scipy.ndimage import binary_dilation, binary_fill_holes, distance_transform_edt, label

    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    # All of the ink with a border around it, so that the outside is one connected part.
    part = tuple(slice(max(ends[0] - 10, 0), ends[-1] + 11) for ends in (rows, columns))
    grown = np.pad(ink[part], 10)
    if bridge:
        grown = binary_dilation(grown, np.ones((2 * bridge + 1, 2 * bridge + 1)))
    parts, _ = label(~grown)
    areas = np.bincount(parts.flat)
    areas[[0, parts[0, 0]]] = 0
    enclosed = [int(part_id) for part_id in np.flatnonzero(areas > max(_SPECK, _LEAST * areas.sum()))]
    if len(enclosed) != 2:
        return None, len(enclosed)
    ring, core = sorted(enclosed, key=lambda part_id: -np.ptp(np.nonzero(parts == part_id)[0]))
    if not binary_fill_holes(parts == ring)[parts == core].all():
        return None, 2
    if areas[ring] < _RIM * areas.sum():
        return None, 1
    kept = np.isin(parts, [ring, core, parts[0, 0]])
    nearest = distance_transform_edt(~kept, return_distances=False, return_indices=True)
    regions = parts[tuple(nearest)][10:-10, 10:-10]
    masks = np.zeros((2, *ink.shape), np.uint8)
    masks[0][part], masks[1][part] = np.isin(regions, [ring, core]), regions == core
    return (masks[0], masks[1]), 2
