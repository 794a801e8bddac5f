import numpy as np
import pytest
import torch

from diffmedseg.conformal import ConformalArea, ConformalContours, case_areas, contour_levels
from diffmedseg.metrics.calibration import reliability_counts
from diffmedseg.metrics.images import score_image

SIZE = 24


def disc(radius):
    y, x = torch.meshgrid(*[torch.arange(SIZE) - SIZE / 2 + 0.5] * 2, indexing="ij")
    return (x**2 + y**2 < radius**2).float()


def case(rng, name="c", samples=5):
    """A lesion of unknown size; the probability falls off around a guess of it, and samples spread too little."""
    truth, guess = rng.uniform(4, 9), rng.normal(0, 1)
    y, x = torch.meshgrid(*[torch.arange(SIZE) - SIZE / 2 + 0.5] * 2, indexing="ij")
    probability = torch.sigmoid((truth + guess - torch.hypot(x, y)) * 1.5)
    drawn = torch.stack([disc(truth + guess + rng.normal(0, 0.3)) for _ in range(samples)])
    return score_image(name, probability[None], drawn[:, None], disc(truth)[None, None].to(torch.uint8), 0.5, 0.0)


def holds(image, contours):
    """Both statements, by hand from the counts of the case."""
    pixels, _, truth = image.reliability[0, 0]
    edges = torch.arange(len(pixels)) / len(pixels) + 1e-9
    inner, outer = edges >= contours.inner, edges >= contours.outer
    return bool(truth[inner].sum() >= 0.95 * pixels[inner].sum()), bool(truth[outer].sum() >= 0.95 * truth.sum())


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_contours_hold_as_often_as_they_say(coverage):
    """Over many draws of the cases that are fitted to: never less than promised, and not much more."""
    rng = np.random.default_rng(0)
    cases = [case(rng) for _ in range(240)]
    found = []
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(len(cases))
        contours = ConformalContours.fit([cases[i] for i in order[:60]], coverage=coverage)
        assert contours.outer <= contours.inner
        found.append(np.mean([holds(cases[i], contours) for i in order[60:]], axis=0))
    for side in np.mean(found, axis=0):
        assert coverage - 0.02 < side < coverage + 0.06


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_areas_lie_within_as_often_as_they_say(coverage):
    rng = np.random.default_rng(1)
    cases = [case(rng) for _ in range(240)]
    found, bare = [], []
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(len(cases))
        area = ConformalArea.fit([cases[i] for i in order[:60]], coverage=coverage)
        for i in order[60:]:
            samples, truth = case_areas(cases[i], 0)
            low, high = area.interval(samples)
            found.append(low - 1e-6 <= truth <= high + 1e-6)
            bare.append(min(samples) <= truth <= max(samples))
    assert np.mean(bare) < coverage - 0.2  # the samples alone are too sure
    assert coverage - 0.02 < np.mean(found) < coverage + 0.05


def test_levels_by_hand():
    probability = torch.tensor([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1])
    truth = torch.tensor([1, 1, 1, 0, 1, 0, 1, 0]).float()
    inner, outer = contour_levels(reliability_counts(probability, truth), share=1.0)
    assert inner == pytest.approx(0.701, abs=1.1e-3)
    assert outer == pytest.approx(0.2, abs=1.1e-3)
    inner, outer = contour_levels(reliability_counts(probability, truth), share=0.75)
    assert inner == pytest.approx(0.501, abs=1.1e-3)
    assert outer == pytest.approx(0.6, abs=1.1e-3)


def test_cases_without_a_lesion():
    probability = torch.linspace(0, 0.4, 50)
    inner, outer = contour_levels(reliability_counts(probability, probability * 0), 0.95)
    assert outer == 1
    assert inner == pytest.approx(0.401, abs=1.1e-3)  # what is above holds nothing wrong


def test_too_few_cases():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"8 cases are too few for a coverage of 0\.9: 9 are needed"):
        ConformalContours.fit([case(rng) for _ in range(8)])
    assert ConformalContours.fit([case(rng) for _ in range(9)]).cases == 9
