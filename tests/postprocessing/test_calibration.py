import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from diffmedseg.metrics.calibration import expected_calibration_error, reliability_counts
from diffmedseg.postprocessing.calibration import IsotonicCalibration, TemperatureScaling


def drawn(temperature, bias=0.0, n=100_000, seed=0):
    """Probabilities that are too extreme by a temperature, and truths."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, n)
    truth = rng.random(n) < 1 / (1 + np.exp(-logit))
    said = 1 / (1 + np.exp(-(logit - bias) * temperature))
    return torch.from_numpy(said), torch.from_numpy(truth)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature):
    p, y = drawn(temperature)
    found = TemperatureScaling.fit(reliability_counts(p, y))
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.bias == 0
    assert expected_calibration_error(reliability_counts(found(p), y)) < 0.01


def test_a_bias_is_found_where_it_is_asked_for():
    p, y = drawn(2.0, bias=1.0)
    found = TemperatureScaling.fit(reliability_counts(p, y), with_bias=True)
    assert found.temperature == pytest.approx(2, rel=0.05)
    assert found.bias == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("fit", [TemperatureScaling.fit, IsotonicCalibration.fit])
def test_on_other_cases_it_is_better_than_before(fit):
    calibration = fit(reliability_counts(*drawn(3.0, seed=0)))
    p, y = drawn(3.0, seed=1)
    before, after = (expected_calibration_error(reliability_counts(q, y)) for q in (p, calibration(p)))
    assert after < 0.02 < 0.1 < before


def test_isotonic_fits_what_no_temperature_does():
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.random(100_000))
    y = torch.from_numpy(rng.random(100_000)) < p**3 * 0.6 + 0.1
    found = IsotonicCalibration.fit(reliability_counts(p, y))
    at = torch.tensor([0.2, 0.5, 0.8])
    torch.testing.assert_close(found(at), at**3 * 0.6 + 0.1, atol=0.02, rtol=0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 20))
def test_maps_increase_and_stay_in_range(values, seed):
    rng = np.random.default_rng(seed)
    p = torch.from_numpy(rng.random(500))
    y = torch.from_numpy(rng.random(500)) < p ** rng.uniform(0.3, 3)
    ordered = torch.tensor(sorted(values))
    for fit in (TemperatureScaling.fit, IsotonicCalibration.fit):
        mapped = fit(reliability_counts(p, y))(ordered)
        assert (mapped.diff() >= 0).all()
        assert 0 <= mapped.min() <= mapped.max() <= 1
        assert mapped.dtype == ordered.dtype


def test_without_a_bias_the_mask_stays():
    p = torch.linspace(0, 1, 1001)
    assert torch.equal(TemperatureScaling(3.0)(p) > 0.5, p > 0.5)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="above 0"):
        TemperatureScaling(0)
    with pytest.raises(ValueError, match="have to increase"):
        IsotonicCalibration([0, 0.5, 0.4], [0, 0.5, 1])
    with pytest.raises(ValueError, match="1 probabilities and 2 frequencies"):
        IsotonicCalibration([0], [0, 1])
    with pytest.raises(ValueError, match="no pixel"):
        TemperatureScaling.fit(torch.zeros(3, 1000))
