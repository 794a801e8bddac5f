"""Rules for brain MRI: field, symmetry, and parts that last over slices."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffmedseg.data.labels import BrainField, LargestComponent, LastingComponent, MaskRule, MirrorSymmetry, Plausible

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def disc(row, column, radius):
    return np.hypot(ROWS - row, COLUMNS - column) <= radius


HEAD = disc(32, 30, 24)


def test_the_field_is_the_head_without_rim_and_air_and_other_parts():
    image = np.zeros((2, SIDE, SIDE), np.float32)
    image[1, HEAD & ~disc(32, 30, 5)] = 0.4  # a hole, as dark as air, is inside
    image[0, :3, :3] = 0.9  # a marker in the corner
    assert np.array_equal(BrainField(rim=0)(image), HEAD)
    inner = BrainField(rim=4 / SIDE)(image)
    assert disc(32, 30, 19).sum() <= inner.sum() < HEAD.sum()
    assert not (inner & ~disc(32, 30, 21)).any()
    assert not BrainField()(np.zeros_like(image)).any()
    full = np.ones((1, SIDE, SIDE), np.float32)
    assert not BrainField(rim=2 / SIDE)(full)[:2].any()  # the edge of the image is a rim, too


@given(st.integers(20, 44), st.integers(14, 24), st.floats(-2, 2), st.sampled_from(["columns", "rows"]))
def test_evidence_on_both_sides_is_lowered_and_that_on_one_side_stays(row, column, offset, axis):
    twin = HEAD.shape[1] - 1 - 3 - column  # the head spans columns 6 to 54
    one, both = disc(row, column, 3), disc(row, column, 3) | disc(row, twin, 3)
    turn = (lambda values: values) if axis == "columns" else (lambda values: values.T)
    symmetry = MirrorSymmetry(axis, weight=1.0, tolerance=0)
    values = (offset + both).astype(np.float32)
    assert np.abs(turn(symmetry(turn(values), turn(HEAD)))).max() < 1e-5
    alone = turn(symmetry(turn((offset + one).astype(np.float32)), turn(HEAD)))
    assert np.array_equal(alone > 0.5, one & HEAD)


def test_a_volume_is_lowered_slice_by_slice_and_half_a_weight_keeps_half():
    both = (disc(30, 15, 3) | disc(30, 45, 3)).astype(np.float32)
    one = disc(30, 15, 3).astype(np.float32)
    volume, seen = np.stack([both, one, both]), np.stack([HEAD, HEAD, HEAD & False])
    lowered = MirrorSymmetry(weight=0.5, tolerance=0)(volume, seen)
    assert lowered[0].max() == pytest.approx(0.5)
    assert lowered[1].max() == pytest.approx(1.0)
    assert not lowered[2].any()


def test_tolerance_finds_a_twin_that_is_not_exactly_opposite():
    shifted = (disc(30, 15, 2) | disc(32, 44, 2)).astype(np.float32)
    exact, tolerant = (MirrorSymmetry(weight=1.0, tolerance=share)(shifted, HEAD) for share in (0, 4 / SIDE))
    assert exact.max() == 1
    assert tolerant.max() <= 0


def test_the_rule_uses_symmetry_before_it_chooses_a_level():
    evidence = np.where(disc(20, 15, 4) | disc(20, 45, 4), 1.0, 0.0) + np.where(disc(40, 18, 4), 0.8, 0.0)
    softened = MaskRule(symmetry=MirrorSymmetry(weight=1.0)).soften(evidence.astype(np.float32), HEAD)
    mask = MaskRule(component=LargestComponent()).decide(softened).mask
    assert mask[40, 18]
    assert not mask[20].any()


def volume(**parts):
    """Return masks of six slices; each part is a range of slices."""
    masks = np.zeros((6, SIDE, SIDE), bool)
    for name, (first, last) in parts.items():
        masks[first:last, {"large": slice(5, 25), "small": slice(40, 44)}[name], 10:20] = True
    return masks


def test_a_large_part_of_one_slice_is_dropped_for_a_small_part_that_lasts():
    masks = volume(large=(2, 3), small=(1, 5))
    kept = LastingComponent(3)(masks, masks.astype(np.float32), range(6))
    assert np.array_equal(kept, volume(small=(1, 5)))
    assert np.array_equal(LastingComponent(1)(masks, masks.astype(np.float32), range(6)), volume(large=(2, 3)))
    assert not LastingComponent(5)(masks, masks.astype(np.float32), range(6)).any()


def test_the_order_of_slices_does_not_matter_and_a_missing_slice_ends_a_part():
    masks = volume(small=(1, 5))
    order = np.random.default_rng(0).permutation(6)
    kept = LastingComponent(4)(masks[order], masks[order].astype(np.float32), order.tolist())
    assert np.array_equal(kept, masks[order])
    apart = [0, 1, 2, 7, 8, 9]  # no slice between 2 and 7
    assert not LastingComponent(4)(masks, masks.astype(np.float32), apart).any()
    assert np.array_equal(LastingComponent(2)(masks, masks.astype(np.float32), apart).any((1, 2)).nonzero()[0], [1, 2])


def test_slices_are_decided_together_and_checked_one_by_one():
    masks = volume(large=(2, 3), small=(1, 5))
    soft = np.where(masks, 0.9, 0.1).astype(np.float32)
    rule = MaskRule(over_slices=LastingComponent(3), component=LargestComponent(), plausible=Plausible((0.5, 1.0)))
    decided = rule.decide_slices(soft, range(6))
    assert [one.objection is None for one in decided] == [False] * 6  # too small
    assert [bool(one.mask.any()) for one in decided] == [False, True, True, True, True, False]
    alone = MaskRule(component=LargestComponent()).decide_slices(soft, range(6))
    assert alone[2].mask[10, 12]  # without the rule over slices, the larger part of that slice
    assert not decided[2].mask[10, 12]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BrainField(rim=0.5), "rim"), (lambda: MirrorSymmetry(axis="depth"), "axis"),
        (lambda: MirrorSymmetry(weight=0), "weight"), (lambda: MirrorSymmetry(tolerance=0.5), "tolerance"),
        (lambda: LastingComponent(0), "min_slices"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
