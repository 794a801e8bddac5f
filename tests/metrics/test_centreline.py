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
    assert centreline_dice(broken, vessel(width=width)) == pytest.approx(2 * 0.5 / 1.5, abs=0.05)
    assert centreline_dice(vessel(width=width), broken) == pytest.approx(2 * 0.5 / 1.5, abs=0.05)


def test_empty_masks():
    empty = torch.zeros(40, 40, dtype=torch.bool)
    assert centreline_dice(empty, empty) == 1
    assert centreline_dice(empty, vessel()) == centreline_dice(vessel(), empty) == 0
    assert centreline_dice(vessel(shift=12), vessel()) == 0
