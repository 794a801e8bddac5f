"""Supervision in words: what it says after two trainings, and whether masks chose anything."""

import pytest

from diffmedseg.data.labels.supervision import (
    NOTHING,
    after,
    learned_from_pseudo_masks,
    masks_chose_nothing,
    supervision_of_pseudo_masks,
    used_masks,
)

LABELS = supervision_of_pseudo_masks("luminance (learned from nothing)", False, 0, [], None)
CHOSEN = supervision_of_pseudo_masks(
    f"a student (learned from {LABELS})", False, 0, ["masks chose its checkpoint"], None
)
OF_MASKS = supervision_of_pseudo_masks("a model (learned from masks)", True, 2, [], "sigma")


def test_sources_that_masks_did_not_choose_do_not_clear_a_choice_by_masks():
    assert masks_chose_nothing(LABELS)
    assert NOTHING in CHOSEN  # of its source
    assert not masks_chose_nothing(CHOSEN)
    assert "2 true masks" in OF_MASKS
    assert f"{NOTHING} but sigma" in OF_MASKS
    assert "masks also chose sigma" in supervision_of_pseudo_masks("x", False, 1, ["masks ended training"], "sigma")


@pytest.mark.parametrize("initial", ["masks", OF_MASKS, "masks (mask-assisted): what they cover is filled in"])
@pytest.mark.parametrize("own", [LABELS, CHOSEN, "image-level labels"])
def test_initial_weights_of_masks_are_never_forgotten(initial, own):
    both = after(initial, own)
    assert used_masks(both)
    assert not learned_from_pseudo_masks(both)
    assert not masks_chose_nothing(both)
    assert initial in both
    assert after(both, LABELS) != LABELS  # nor after a third training
    assert used_masks(after(both, LABELS))


def test_initial_weights_of_labels_are_named_and_keep_the_kind():
    assert after(LABELS, LABELS) == LABELS
    assert after(LABELS, "masks") == "masks"
    both = after("image-level labels", LABELS)
    assert learned_from_pseudo_masks(both)
    assert masks_chose_nothing(both)
    assert "image-level labels" in both
    assert not masks_chose_nothing(after(CHOSEN, "image-level labels"))
    assert not masks_chose_nothing(after(CHOSEN, LABELS))
