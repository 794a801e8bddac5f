"""Decisions that stand in for masks: field of view, component, holes and plausibility."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffmedseg.data.labels import CentralComponent, FieldOfView, LargestComponent, MaskRule, Plausible
from diffmedseg.data.labels.deciding import _distance_from_middle

SIDE = 64


def disc(y=0.5, x=0.5, radius=0.15, side=SIDE):
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    return np.hypot(rows - y, columns - x) < radius


def skin(*dark, level=0.3):
    image = np.full((3, SIDE, SIDE), 0.8, np.float32)
    for part in dark:
        image[:, part] = level
    return image


def vignette(radius=0.6):
    return _distance_from_middle((SIDE, SIDE)) > radius


def test_a_dark_border_is_not_seen_and_all_skin_is():
    border = vignette()
    seen = FieldOfView(grow=0)(skin(border, disc(), level=0.05))
    assert np.array_equal(seen, ~border)
    assert FieldOfView()(skin(disc(), level=0.05)).all()  # dark, but away from the corners
    grown = FieldOfView(grow=0.05)(skin(border, level=0.05))
    assert not (grown & border).any()
    assert grown.sum() < (~border).sum()


def test_a_lesion_that_touches_the_border_stays_in_the_middle():
    lesion = disc(0.35, 0.35, 0.3)
    seen = FieldOfView()(skin(vignette(), lesion, level=0.05))
    assert seen[_distance_from_middle((SIDE, SIDE)) <= 0.35].all()


def test_of_several_parts_the_central_one_is_kept_and_the_largest_for_volumes():
    middle, corner = disc(0.5, 0.45, 0.1), disc(0.1, 0.9, 0.2)
    evidence = np.ones((SIDE, SIDE), np.float32)
    assert np.array_equal(CentralComponent()(middle | corner, evidence), middle)
    assert np.array_equal(CentralComponent(sigma=100)(middle | corner, evidence), corner)
    volume = np.zeros((5, SIDE, SIDE), bool)
    volume[1:4, 20:24, 20:24] = True  # lasts over slices
    volume[2, 40:45, 40:45] = True
    assert LargestComponent()(volume, volume.astype(np.float32))[:, 20, 20].tolist() == [False, True, True, True, False]
    assert not LargestComponent()(volume, volume.astype(np.float32))[2, 42, 42]


def test_evidence_outweighs_area():
    strong, weak = disc(0.5, 0.35, 0.08), disc(0.5, 0.7, 0.12)
    evidence = np.where(strong, 1.0, 0.1).astype(np.float32)
    assert np.array_equal(CentralComponent()(strong | weak, evidence), strong)
    assert np.array_equal(CentralComponent()(strong | weak, np.ones_like(evidence)), weak)


def test_a_rule_finds_the_lesion_within_a_dermatoscopes_border():
    lesion = disc(0.5, 0.5, 0.2)
    image = skin(vignette(0.55), lesion & ~disc(0.5, 0.5, 0.05), level=0.1)
    alone = MaskRule(fill_holes=False)
    found = alone.decide(alone.soften(1 - image.mean(0), alone.seen(image)))
    assert (found.mask & vignette(0.55)).any()
    rule = MaskRule(field_of_view=FieldOfView(), component=CentralComponent(), plausible=Plausible())
    found = rule.decide(rule.soften(1 - image.mean(0), rule.seen(image)))
    assert np.array_equal(found.mask, lesion)  # its hole is filled
    assert found.objection is None


@given(st.floats(0.05, 20), st.floats(-3, 3), st.integers(0, 1000))
def test_a_rule_does_not_depend_on_the_scale_of_the_evidence(scale, shift, seed):
    evidence = np.random.default_rng(seed).random((16, 16)).astype(np.float32)
    rule, seen = MaskRule(), np.ones((16, 16), bool)
    soft, other = rule.soften(evidence, seen), rule.soften(evidence * scale + shift, seen)
    assert 0 <= soft.min() <= soft.max() <= 1
    assert np.abs(soft - other).max() < 0.05
    assert not rule.soften(np.full((16, 16), shift, np.float32), seen).any()


def test_pixels_near_the_level_are_unsure():
    soft = np.linspace(0, 1, SIDE, dtype=np.float32)[None].repeat(SIDE, 0)
    found = MaskRule(margin=0.1).decide(soft)
    assert np.array_equal(found.unsure, np.abs(soft - 0.5) < 0.1)
    assert not MaskRule(margin=0).decide(soft).unsure.any()


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (disc(radius=0.02), "area"), (~disc(radius=0.1), "area"), (disc(0.5, 0.0, 0.3), "border"),
        (disc(0.2, 0.2, 0.15), "off the middle"), (disc(), None),
    ],
)  # fmt: skip
def test_implausible_masks_are_left_out_with_the_reason(mask, reason):
    objection = Plausible().objection(mask)
    assert objection is None if reason is None else reason in objection
    for rule in (MaskRule(), MaskRule(plausible=Plausible())):
        assert rule.decide(np.zeros((8, 8), np.float32)).objection == "nothing is found"


@pytest.mark.parametrize(
    "make",
    [
        lambda: FieldOfView(darkness=0), lambda: FieldOfView(grow=0.5), lambda: CentralComponent(sigma=0),
        lambda: Plausible(area=(0.5, 0.2)), lambda: MaskRule(margin=0.5), lambda: MaskRule(polarity="dark"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError, match=r"has to be|expected two increasing shares|no polarity|There is no"):
        make()
