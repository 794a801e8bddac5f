import math

import pytest
import torch

from diffmedseg.metrics.surface import stack_slices, surface_scores


def box(shift=0, size=(12, 20, 20)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[3:8, 5:12, 4 + shift : 12 + shift] = True
    return mask


def test_identical_masks():
    scores = surface_scores(box(), box(), (2.0, 1.0, 1.0))
    assert (scores.hd95, scores.nsd) == (0, 1)


@pytest.mark.parametrize("step", [0.5, 1.0, 3.0])
def test_a_shift_is_measured_in_millimetres(step):
    """The two faces that moved are farther than 5 % of the surface."""
    scores = surface_scores(box(), box(2), (1.0, 1.0, step))
    assert scores.hd95 == pytest.approx(2 * step)
    assert surface_scores(box(), box(2), (1.0, 1.0, step), tolerance=2 * step).nsd == 1
    assert surface_scores(box(), box(2), (1.0, 1.0, step), tolerance=0.01).nsd < 1


def test_against_brute_force():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(7, 6, generator=generator) > 0.5 for _ in range(2))
    spacing = torch.tensor([2.0, 0.5])

    def surface(mask):
        padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))
        inside = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
        return (mask & ~inside).nonzero() * spacing

    distance = torch.cdist(surface(a), surface(b))
    there, back = distance.min(1).values, distance.min(0).values
    scores = surface_scores(a, b, (2.0, 0.5), tolerance=0.6)
    assert scores.hd95 == pytest.approx(float(max(there.quantile(0.95), back.quantile(0.95))), abs=1e-5)
    near = int((there <= 0.6).sum() + (back <= 0.6).sum())
    assert scores.nsd == pytest.approx(near / (len(there) + len(back)))


def test_empty_masks():
    empty = box() & False
    assert surface_scores(empty, empty, (1.0, 1.0, 1.0)).hd95 == 0
    assert surface_scores(empty, empty, (1.0, 1.0, 1.0)).nsd == 1
    for a, b in ((box(), empty), (empty, box())):
        scores = surface_scores(a, b, (2.0, 1.0, 1.0))
        assert scores.hd95 == pytest.approx(math.hypot(24, 20, 20))
        assert scores.nsd == 0


def test_without_spacing_distances_are_in_pixels():
    """The same numbers as at a spacing of 1, but another unit, and two pixels of tolerance."""
    a, b = box()[3], box(3)[3]
    pixels = surface_scores(a, b)
    assert (pixels.hd95, pixels.in_pixels) == (3, True)
    assert pixels.nsd == surface_scores(a, b, (1.0, 1.0), tolerance=2).nsd
    assert surface_scores(a, box(2)[3]).nsd == 1
    assert not surface_scores(a, b, (1.0, 1.0)).in_pixels
    assert surface_scores(a, a & False).hd95 == pytest.approx(math.hypot(20, 20))


def test_background_around_changes_nothing():
    """Masks up to the border, too: there they have a surface, as everywhere."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((9, 8), (5, 6, 7)):
        a, b = (torch.rand(shape, generator=generator) > 0.7 for _ in range(2))
        around = [torch.nn.functional.pad(mask, (3, 9) * mask.ndim) for mask in (a, b)]
        assert surface_scores(*around, [2.0] * a.ndim) == surface_scores(a, b, [2.0] * a.ndim)


def test_shapes_have_to_fit():
    with pytest.raises(ValueError, match="same dimensions"):
        surface_scores(box(), box(), (1.0, 1.0))


def test_slices_are_stacked_by_number():
    slices = [torch.full((2, 3, 4), value, dtype=torch.bool) for value in (True, False, True)]
    volume = stack_slices(slices, [4, 2, 1])
    assert volume.any((2, 3)).tolist() == [[False, True, False, False, True]] * 2
    with pytest.raises(ValueError, match="occurs twice"):
        stack_slices(slices, [1, 1, 2])
