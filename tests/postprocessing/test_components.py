"""Dropping small connected parts of masks."""

import numpy as np
import pytest

from diffmedseg.errors import DataError
from diffmedseg.postprocessing.components import drop_small, smallest_sizes


def masks():
    """A region with a large and a small part, the small one joined over a corner; and a region inside each."""
    found = np.zeros((2, 8, 8, 8), dtype=bool)
    found[0, 1:4, 1:4, 1:4] = True  # 27 voxels
    found[0, 6, 6, 5] = found[0, 7, 7, 6] = True  # 2 voxels that share a corner
    found[1, 2, 2, 2] = found[1, 6, 6, 5] = True
    return found


def test_parts_below_the_size_go():
    kept = drop_small(masks(), [3, 1], nested=False)
    assert kept[0].sum() == 27
    assert np.array_equal(kept[1], masks()[1])
    assert np.array_equal(drop_small(masks(), [2, 1], nested=False), masks())  # as many voxels as it needs
    assert drop_small(masks(), [28, 1], nested=False)[0].sum() == 0


def test_what_an_outer_region_drops_the_inner_ones_drop():
    kept = drop_small(masks(), [3, 1], nested=True)
    assert (kept[0].sum(), kept[1].sum()) == (27, 1)
    assert (kept[1] <= kept[0]).all()


def test_what_an_inner_region_drops_stays_outside():
    kept = drop_small(masks(), [1, 2], nested=True)
    assert np.array_equal(kept[0], masks()[0])
    assert kept[1].sum() == 0


def test_the_masks_stay_as_they_are():
    before = masks()
    drop_small(before, [50, 50], nested=True)
    assert np.array_equal(before, masks())


def test_sizes_are_in_the_order_of_regions():
    assert smallest_sizes({"core": 5}, ("tumour", "core")) == [1, 5]
    for wrong in ({"lesion": 5}, {"core": 0}):
        with pytest.raises(DataError, match="a region out of tumour, core"):
            smallest_sizes(wrong, ("tumour", "core"))
