import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffmedseg.metrics.calibration import reliability_counts
from diffmedseg.metrics.cases import score_cases
from diffmedseg.metrics.images import score_image
from diffmedseg.postprocessing.conformal import Conformal, case_areas, contour_levels

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
    pixels, _, truth = image.reliability[2, 0]
    inner, outer = (one[0, 0] for one in contours.contours(torch.arange(len(pixels))[None, None] / len(pixels) + 1e-6))
    return bool(truth[inner].sum() >= 0.95 * pixels[inner].sum()), bool(truth[outer].sum() >= 0.95 * truth.sum())


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_contours_hold_as_often_as_they_say(coverage):
    """Over many draws of the cases that are fitted to: never less than promised, and not much more."""
    rng = np.random.default_rng(0)
    cases = [case(rng) for _ in range(240)]
    found = []
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(len(cases))
        contours = Conformal.fit([cases[i] for i in order[:60]], 10, coverage=coverage)
        assert contours.outer[0] <= contours.inner[0]
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
        fitted = Conformal.fit([cases[i] for i in order[:60]], 10, coverage=coverage)
        for i in order[60:]:
            samples, truth = case_areas(cases[i], 0)
            low, high = fitted.areas(torch.tensor(samples)[:, None])[:, 0]
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
    with pytest.raises(ValueError, match=r"8 cases: too few for a coverage of 0\.9; 9 are needed"):
        Conformal.fit([case(rng) for _ in range(8)], 10)
    fitted = Conformal.fit([case(rng) for _ in range(9)], 10)
    assert (fitted.cases, fitted.num_samples, fitted.num_steps) == (9, 5, 10)


def test_areas_of_lesions_that_may_not_be_there():
    """A third of the cases have none, and the samples of some find one all the same."""
    rng = np.random.default_rng(3)
    fitted = Conformal([0.9, 0.9], [0.1, 0.1], [1.5, 2.0], 0.95, 0.9, 10, 2, 10)
    assert fitted.areas(torch.tensor([[0, 100], [0, 110]])).tolist() == [[0, 50], [1.5, 220]]
    assert fitted.areas(torch.tensor([[0, 100], [0, 110]]), 200)[1].tolist() == [1.5, 200]  # no larger than the image

    def draw_case():
        truth = disc(rng.uniform(3, 8)) * float(rng.random() > 1 / 3)
        samples = torch.stack([disc(rng.uniform(2, 9)) * float(rng.random() > 0.4) for _ in range(4)])[:, None]
        return score_image("c", samples.mean(0), samples, truth[None, None].to(torch.uint8), 0.5, 0.0)

    cases = [draw_case() for _ in range(240)]
    found = []
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(len(cases))
        fitted = Conformal.fit([cases[i] for i in order[:60]], 10)
        for i in order[60:]:
            samples, truth = case_areas(cases[i], 0)
            low, high = fitted.areas(torch.tensor(samples)[:, None])[:, 0]
            assert low <= high
            found.append(low - 1e-6 <= truth <= high + 1e-6)
    assert np.mean(found) > 0.88


def test_contours_of_pixels():
    """Where the surest pixels are wrong only an empty inner contour holds."""
    probability, truth = torch.zeros(8, 8), torch.zeros(8, 8)
    probability[:4, :4], truth[4:, 4:] = 1.0, 1.0
    image = score_image("c", probability[None], probability[None, None], truth[None, None].to(torch.uint8), 0.5, 0.0)
    fitted = Conformal.fit([image] * 20, 10)
    inner, outer = fitted.contours(probability[None])
    assert not inner.any()
    assert outer.all()


@pytest.mark.parametrize(("share", "coverage"), [(0, 0.9), (1.1, 0.9), (0.9, 0), (0.9, 1)])
def test_levels_that_cannot_be(share, coverage):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="has to lie"):
        Conformal.fit([case(rng) for _ in range(12)], 10, share=share, coverage=coverage)


@pytest.mark.parametrize("samples", [8, 10, 20, 50, 100])
def test_levels_are_those_that_were_counted(samples):
    """A float32 of 0.7 is less than 0.7: what fitting left out of a contour must not come back by rounding."""
    probability = (torch.arange(samples + 1) / samples).repeat(40, 1)
    for votes in range(1, samples):
        truth = torch.arange(samples + 1).repeat(40, 1) > votes  # all that has so many votes is wrong
        image = score_image(
            "c", probability[None], probability[None, None], truth[None, None].to(torch.uint8), 0.5, 0.0
        )
        fitted = Conformal.fit([image] * 20, 10, threshold=0.01, share=1.0)
        inner, outer = fitted.contours(probability[None])
        assert torch.equal(inner[0], truth)
        assert (outer[0] >= truth).all()


def test_the_mask_lies_between_the_contours():
    """Where a model is so good that an inner contour could enclose the outer one."""
    rng = np.random.default_rng(0)
    cases = [case(rng) for _ in range(40)]
    for share, coverage in ((0.5, 0.5), (0.8, 0.6), (0.95, 0.9)):
        fitted = Conformal.fit(cases, 10, 0.5, share, coverage)
        assert fitted.outer[0] <= 0.5 <= fitted.inner[0]


def test_every_region_has_its_own():
    rng = np.random.default_rng(0)
    pairs = [(case(rng), case(rng)) for _ in range(30)]
    both = [
        replace(
            a,
            **{name: torch.cat([getattr(a, name), getattr(b, name)], 1) for name in ("counts", "pairs", "reliability")},
        )
        for a, b in pairs
    ]
    fitted, first, second = (Conformal.fit(images, 10) for images in (both, *zip(*pairs, strict=True)))
    for name in ("inner", "outer", "area_factor"):
        assert getattr(fitted, name) == getattr(first, name) + getattr(second, name)


def test_the_truth_is_the_majority():
    """One rater of three who overlooks the lesion does not make every contour impossible."""
    raters = torch.stack([disc(6), disc(6), torch.zeros(SIZE, SIZE)])[:, None].to(torch.uint8)
    image = score_image("c", disc(6)[None], disc(6)[None, None], raters, 0.5, 0.0)
    fitted = Conformal.fit([image] * 20, 10)
    assert all(torch.equal(contour[0], disc(6).bool()) for contour in fitted.contours(disc(6)[None]))
    assert fitted.area_factor == [1.0]


def test_what_held_is_counted_by_hand():
    """Ten pixels are called sure, eight of them rightly; ten of the lesion's twelve are called possible."""
    truth = torch.zeros(1, 6, 6, dtype=torch.bool)
    truth[0, :2] = True
    inner, outer = torch.zeros_like(truth), torch.zeros_like(truth)
    inner[0, 0, :], inner[0, 1, :2], inner[0, 3, :2] = True, True, True
    outer[0, 0, :], outer[0, 1, :4], outer[0, 3, :] = True, True, True
    samples = torch.stack([truth[0], truth[0] & outer[0]])[:, None].float()
    image = score_image("c", samples.mean(0), samples, truth[None].to(torch.uint8), 0.5, 0.0, contours=(inner, outer))
    assert image.contours[:, 0].tolist() == [10, 8, 10, 16]
    for share, kept in ((0.8, (1, 1)), (0.81, (0, 1)), (0.84, (0, 0))):
        fitted = Conformal([0.9], [0.1], [1.0], share, 0.9, 20, 2, 1)
        [held] = fitted.check_coverage(image)
        assert (held.inner_held, held.outer_held, held.area_held) == (*kept, 1)
        assert held.between_contours == pytest.approx(6 / 12)
    [twice] = fitted.check_coverage(image + image)  # two slices of a volume
    assert (twice.inner_held, twice.between_contours) == (0, pytest.approx(0.5))
    [row] = score_cases([image], ("lesion",), coverage={"c": fitted.check_coverage(image)})
    assert (row.inner_held, row.outer_held, row.area_held) == (0, 0, 1)
    with pytest.raises(ValueError, match="without contours"):
        fitted.check_coverage(replace(image, contours=None))


def test_an_interval_that_misses_is_no_interval_that_held():
    truth, wide = disc(5)[None, None].to(torch.uint8), disc(9)[None, None]
    none = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    image = score_image("c", wide[0], wide, truth, 0.5, 0.0, contours=(none, ~none))
    for factor, expected in ((1.0, 0), (2.0, 0), (4.0, 1)):
        [held] = Conformal([0.9], [0.1], [factor], 0.95, 0.9, 20, 1, 1).check_coverage(image)
        assert (held.inner_held, held.outer_held, held.area_held) == (1, 1, expected)


def test_without_a_lesion_there_is_no_share_of_it():
    none = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    image = score_image(
        "c", none.float(), none[None].float(), none[None].to(torch.uint8), 0.5, 0.0, contours=(none, ~none)
    )
    [held] = Conformal([0.9], [0.1], [1.0], 0.95, 0.9, 20, 1, 1).check_coverage(image)
    assert (held.inner_held, held.outer_held, held.area_held) == (1, 1, 1)
    assert math.isnan(held.between_contours)
