import numpy as np
import pytest
import torch

from diffmedseg.metrics.calibration import (
    aurc,
    calibration_error_interval,
    expected_calibration_error,
    merge_bins,
    neighbourhood,
    proper_scores,
    reliability_counts,
    risk_coverage,
)


def drawn(n=200_000, power=1.0, seed=0):
    """Probabilities, and truths drawn from these to a power: calibrated where it is 1."""
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return torch.from_numpy(p), torch.from_numpy(rng.random(n) < p**power)


def test_calibrated_probabilities_have_no_error():
    assert expected_calibration_error(reliability_counts(*drawn())) < 0.005


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_the_error_is_that_of_sorted_bins(power):
    """Against bins of exactly equal mass, by sorting."""
    p, y = drawn(power=power)
    order = p.argsort()
    parts = [(p[part].mean(), y[part].double().mean(), len(part)) for part in order.tensor_split(15)]
    expected = sum(abs(float(a - b)) * n for a, b, n in parts) / len(p)
    assert expected > 0.1
    assert expected_calibration_error(reliability_counts(p, y)) == pytest.approx(expected, abs=1e-3)


def test_the_interval_of_the_error_is_that_of_drawn_patients():
    """Against drawing patients one by one, and adding up their counts."""
    counts = [reliability_counts(*drawn(2000, power, seed=i)) for i, power in enumerate((0.5, 0.8, 1.0, 1.5, 2.0))]
    low, high = calibration_error_interval(counts)
    rng = np.random.default_rng(1)
    errors = [
        expected_calibration_error(torch.stack([counts[i] for i in rng.integers(5, size=5)]).sum(0))
        for _ in range(1000)
    ]
    assert (low, high) == pytest.approx(tuple(np.quantile(errors, [0.025, 0.975])), abs=0.01)
    assert low < expected_calibration_error(torch.stack(counts).sum(0)) < high
    alike = calibration_error_interval([counts[0]] * 4)
    assert alike == pytest.approx((expected_calibration_error(counts[0]),) * 2)
    assert np.isnan(calibration_error_interval(counts[:1])).all()


def test_counts_add_up():
    p, y = drawn(1000)
    whole = reliability_counts(p, y)
    parts = reliability_counts(p[:300], y[:300]) + reliability_counts(p[300:], y[300:])
    torch.testing.assert_close(whole, parts)
    assert whole[0].sum() == 1000
    merged = merge_bins(whole)
    torch.testing.assert_close(merged.sum(1), whole.sum(1))
    assert merged.shape == (3, 17)  # the surest pixels are bins of their own
    assert merged[0, 1:-1].max() < 1.2 * merged[0, 1:-1].min()


def test_certain_background_is_one_bin():
    counts = reliability_counts(torch.tensor([0.0] * 900 + [1.0] * 100), torch.tensor([0.0] * 900 + [1.0] * 100))
    assert merge_bins(counts).shape[1] == 2
    assert expected_calibration_error(counts) == 0
    assert np.isnan(expected_calibration_error(counts * 0))


def test_proper_scores_are_means_over_raters():
    p, raters = torch.rand(4, 5).clamp(1e-4, 1 - 1e-4), torch.rand(3, 4, 5).round()  # what is nearer to 0 is clipped
    pixels, squared, surprise = proper_scores(p, raters.mean(0))
    assert pixels == 20
    assert squared / pixels == pytest.approx(float((p - raters).square().mean()), rel=1e-5)
    expected = torch.nn.functional.binary_cross_entropy(p.expand(3, -1, -1), raters)
    assert surprise / pixels == pytest.approx(float(expected), rel=1e-5)
    assert torch.isfinite(proper_scores(torch.zeros(2, 2), torch.ones(2, 2))).all()


def test_the_neighbourhood_is_the_box_enlarged():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[4:8, 10:20] = True
    box = neighbourhood(mask)
    assert box[2:10, 5:25].all()
    assert box.sum() == 8 * 20
    mask[0, 0] = True
    assert neighbourhood(mask).sum() == 12 * 30
    assert not neighbourhood(mask & False).any()


def test_risk_coverage_by_hand():
    doubt, dice = [0.1, 0.3, 0.2, 0.4], [1.0, 0.6, 0.8, 0.0]
    coverage, risk = risk_coverage(doubt, dice)
    assert coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert risk == pytest.approx([0, 0.1, 0.2, 0.4])
    assert aurc(doubt, dice) == pytest.approx(0.175)


def test_useless_doubt_leaves_the_risk_as_it_is():
    assert aurc([0.5] * 5, [0, 1, 0.5, 0.2, 0.3]) == pytest.approx(0.6)
    assert aurc([1, 2, 3], [0.9, 0.5, 0.1]) < aurc([2, 2, 2], [0.9, 0.5, 0.1]) < aurc([3, 2, 1], [0.9, 0.5, 0.1])
    assert np.isnan(aurc([], []))


def test_errors_of_both_signs_do_not_cancel_beside_certain_background():
    """Five per cent of doubtful pixels, half too sure, half not sure enough."""
    p = torch.cat([torch.zeros(95_000), torch.full((2500,), 0.6), torch.full((2500,), 0.9)])
    y = torch.cat([torch.zeros(95_000), (torch.arange(2500) % 10 < 9).float(), (torch.arange(2500) % 10 < 6).float()])
    assert expected_calibration_error(reliability_counts(p, y)) == pytest.approx(0.05 * 0.3, rel=0.01)
