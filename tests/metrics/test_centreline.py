import numpy as np
import pytest
import torch

from diffmedseg.metrics.centreline import centreline, centreline_dice


def vessel(shift=0, width=3, start=0, stop=40):
    """A slanted line."""
    y, x = np.mgrid[:40, :40]
    return torch.from_numpy((abs(y - 0.5 * x - 5 - shift) < width / 2) & (x >= start) & (x < stop))


def test_a_centreline_is_thin_and_inside():
    line = centreline(vessel(width=7))
    assert not (line & ~vessel(width=7)).any()
    assert 30 < line.sum() <= 42


@pytest.mark.parametrize("width", [1, 3, 7])
def test_width_hardly_counts_and_breaks_do(width):
    assert centreline_dice(vessel(), vessel()) == pytest.approx(1)
    if width > 1:
        assert centreline_dice(vessel(width=width), vessel(width=5)) > 0.95
    broken = vessel(width=width) & ~vessel(width=width, start=10, stop=30)
    assert centreline_dice(broken, vessel(width=width)) == pytest.approx(2 * 0.5 / 1.5, abs=0.06)
    assert centreline_dice(vessel(width=width), broken) == pytest.approx(2 * 0.5 / 1.5, abs=0.06)


def test_empty_masks():
    empty = torch.zeros(40, 40, dtype=torch.bool)
    assert centreline_dice(empty, empty) == 1
    assert centreline_dice(empty, vessel()) == centreline_dice(vessel(), empty) == 0
    assert centreline_dice(vessel(shift=12), vessel()) == 0


@pytest.mark.parametrize("edge", [(0, slice(None)), (slice(0, 2), slice(None)), (slice(None), -1), (0, 0)])
def test_what_lies_at_the_edge_of_an_image_has_a_centreline(edge):
    mask = torch.zeros(12, 16, dtype=torch.bool)
    mask[edge] = True
    assert centreline(mask).any()
    assert centreline_dice(mask, mask) == pytest.approx(1)


def test_what_fills_an_image_is_thinned():
    assert centreline(torch.ones(20, 30, dtype=torch.bool)).sum() <= 30
