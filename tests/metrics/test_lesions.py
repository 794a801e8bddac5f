"""Lesion-wise scores of volumes."""

import numpy as np
import pytest

from diffmedseg.metrics.lesions import PENALTY_MM, LesionScores, lesion_scores

SHAPE, CUBIC = (40, 48, 44), (1.0, 1.0, 1.0)


def ball(*balls):
    """Balls, each its centre and radius in voxels."""
    grid = np.mgrid[tuple(slice(size) for size in SHAPE)]
    found = np.zeros(SHAPE, dtype=bool)
    for *centre, radius in balls:
        found |= sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)) <= radius**2
    return found


LARGE, OTHER = (12, 14, 14, 6), (28, 34, 30, 4)


def test_every_lesion_counts_alike():
    true = ball(LARGE, OTHER)
    assert lesion_scores(true, true, CUBIC) == LesionScores(1, 0, 2, 0, 0)
    assert lesion_scores(ball(LARGE), true, CUBIC) == LesionScores(0.5, PENALTY_MM / 2, 1, 1, 0)
    assert lesion_scores(true, ball(LARGE), CUBIC) == LesionScores(0.5, PENALTY_MM / 2, 1, 0, 1)
    nothing = ball()
    assert lesion_scores(nothing, nothing, CUBIC) == LesionScores(1, 0, 0, 0, 0)
    assert lesion_scores(nothing, true, CUBIC) == LesionScores(0, PENALTY_MM, 0, 2, 0)
    assert lesion_scores(true, nothing, CUBIC) == LesionScores(0, PENALTY_MM, 0, 0, 2)


def test_parts_whose_dilations_touch_are_one_lesion():
    near, apart = (28, 14, 14, 4), (30, 14, 14, 4)  # 6 and 8 voxels of background between them
    true = ball((12, 14, 14, 6), near)
    predicted = ball((12, 14, 14, 6))
    one = lesion_scores(predicted, true, CUBIC)
    assert (one.found, one.missed) == (1, 0)
    assert one.dice == pytest.approx(2 * predicted.sum() / (predicted.sum() + true.sum()))
    two = lesion_scores(predicted, ball((12, 14, 14, 6), apart), CUBIC)
    assert (two.found, two.missed, two.dice) == (1, 1, 0.5)


def test_a_predicted_part_near_a_lesion_belongs_to_it():
    true = ball((20, 14, 14, 4))
    beside = ball((20, 14, 23, 2))  # 2 voxels of background: it touches the dilation alone
    scores = lesion_scores(beside, true, CUBIC)
    assert (scores.found, scores.missed, scores.false, scores.dice) == (1, 0, 0, 0)
    assert 0 < scores.hd95 < 15


def test_small_true_lesions_do_not_count():
    small = (30, 30, 30, 2)  # 33 voxels
    true = ball(LARGE, small)
    assert lesion_scores(true, true, CUBIC) == LesionScores(1, 0, 1, 0, 0)
    assert lesion_scores(ball(LARGE), true, CUBIC) == LesionScores(1, 0, 1, 0, 0)
    assert lesion_scores(ball(LARGE), true, (2.0, 1.0, 1.0)).missed == 1  # 66 mm3
    assert lesion_scores(ball(small), ball(small), CUBIC) == LesionScores(1, 0, 0, 0, 0)  # no false lesion either


@pytest.mark.parametrize(
    ("spacing", "dice", "hd95"),
    [((1.0, 1.0, 1.0), 0.412037, 126.666667), ((2.0, 1.0, 1.5), 0.412037, 127.738997)],
)
def test_scores_are_those_of_the_challenge(spacing, dice, hd95):
    """Numbers of BraTS-2023-Metrics, eval.py (0e272e6): surface-distance 0.1, connected-components-3d 4.1.1."""
    true = ball((12, 14, 14, 6), (28, 34, 30, 5))
    predicted = ball((13, 15, 16, 5), (26, 33, 29, 6), (34, 6, 38, 2))
    scores = lesion_scores(predicted, true, spacing)
    assert (scores.found, scores.missed, scores.false) == (2, 0, 1)
    assert (scores.dice, scores.hd95) == pytest.approx((dice, hd95), abs=1e-5)


def test_lesions_at_the_edge_and_along_any_axis():
    true, predicted = ball((0, 0, 0, 6), (39, 47, 43, 5)), ball((0, 2, 1, 6), (39, 47, 43, 5))
    scores = lesion_scores(predicted, true, (1.0, 2.0, 3.0))
    for axes in ((2, 0, 1), (1, 2, 0)):
        turned = [mask.transpose(axes)[::-1] for mask in (predicted, true)]
        again = lesion_scores(*turned, np.array([1.0, 2.0, 3.0])[list(axes)])
        assert (again.dice, again.hd95) == pytest.approx((scores.dice, scores.hd95))


def test_masks_that_are_no_volumes_are_refused():
    with pytest.raises(ValueError, match="volumes of one shape"):
        lesion_scores(np.ones((4, 4), bool), np.ones((4, 4), bool), (1.0, 1.0))
