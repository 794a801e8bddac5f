import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from diffmedseg.metrics import (
    Dice,
    ForegroundDice,
    GeneralizedEnergyDistance,
    IoU,
    SampleDiversity,
    bootstrap_interval,
    dice,
    diversity,
    functional,
    generalized_energy_distance,
    iou,
    pairwise_distance,
    soft_dice_confidence,
    soft_overlap,
)


def masks(seed, *shape, share=0.4):
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    kept = values < share
    kept[seed % len(kept)] &= seed % 3 > 0  # some are empty
    return kept


def brute_iou(a, b):
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    union = sum(x or y for x, y in pairs)
    return sum(x and y for x, y in pairs) / union if union else 1.0


def brute_ged(samples, raters):
    def mean(pairs):
        values = [1 - brute_iou(a, b) for a, b in pairs]
        return sum(values) / len(values)

    cross, yy = mean(itertools.product(samples, raters)), mean(itertools.product(raters, raters))
    biased = 2 * cross - mean(itertools.product(samples, samples)) - yy
    return biased, 2 * cross - mean(itertools.permutations(samples, 2)) - yy


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), s=st.integers(2, 5), r=st.integers(2, 4))
def test_energy_distance_is_the_brute_force_one(seed, s, r):
    samples, raters = masks(seed, s, 5, 6), masks(seed + 1, r, 5, 6)
    got = generalized_energy_distance(samples, raters)
    biased, unbiased = brute_ged(samples, raters)
    assert float(got.biased) == pytest.approx(biased, abs=1e-5)
    assert float(got.unbiased) == pytest.approx(unbiased, abs=1e-5)  # differences of float32
    assert float(got.biased - got.unbiased) == pytest.approx(float(got.sample_sample) / s)


def test_energy_distance_of_identical_sets_is_zero():
    raters = masks(1, 4, 8, 8)
    assert float(generalized_energy_distance(raters, raters).biased) == pytest.approx(0, abs=1e-12)


def test_unbiased_distance_does_not_depend_on_the_number_of_samples():
    """Samples and raters alike are drawn from two modes; a biased estimate falls with S by diversity / S."""
    modes = torch.zeros(2, 4, 4, dtype=torch.bool)
    modes[0, :2], modes[1, :1] = True, True
    generator = torch.Generator().manual_seed(0)
    means = {}
    for s in (2, 16):
        values = [
            generalized_energy_distance(modes[torch.randint(2, (s,), generator=generator)], modes) for _ in range(2000)
        ]
        means[s] = [float(torch.stack([getattr(v, name) for v in values]).mean()) for name in ("biased", "unbiased")]
    assert means[2][1] == pytest.approx(means[16][1], abs=0.01)
    assert means[2][0] - means[16][0] == pytest.approx(0.25 * (1 / 2 - 1 / 16), abs=0.015)


def test_one_rater_is_no_distribution():
    with pytest.raises(ValueError, match="report the diversity"):
        generalized_energy_distance(masks(1, 3, 4, 4), masks(2, 1, 4, 4))


@given(seed=st.integers(0, 500))
def test_dice_and_iou_agree_with_their_definition(seed):
    a, b = masks(seed, 3, 4, 5), masks(seed + 7, 3, 4, 5)
    j, d = iou(a, b), dice(a, b)
    for i in range(3):
        assert float(j[i]) == pytest.approx(brute_iou(a[i], b[i]))
    torch.testing.assert_close(d, 2 * j / (1 + j))
    torch.testing.assert_close(1 - pairwise_distance(a, b).diagonal().float(), j)


def test_empty_masks():
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    assert dice(empty, empty) == iou(empty, empty) == 1
    assert dice(empty, full) == iou(full, empty) == 0
    assert pairwise_distance(empty[None], empty[None]) == 0


def test_counts_of_large_masks_are_exact(monkeypatch):
    a, b = masks(4, 3, 40, 50), masks(5, 2, 40, 50)
    whole = pairwise_distance(a, b)
    monkeypatch.setattr(functional, "_CHUNK", 7)
    assert torch.equal(pairwise_distance(a, b), whole)


def test_soft_masks_and_differing_shapes_are_refused():
    with pytest.raises(ValueError, match="Threshold the mask first"):
        dice(torch.rand(4, 4), torch.rand(4, 4))
    with pytest.raises(ValueError, match="differ in shape"):
        dice(masks(1, 2, 4, 4), masks(1, 3, 4, 4))


def test_diversity():
    same = masks(2, 1, 6, 6).expand(4, -1, -1)
    assert diversity(same) == 0
    assert math.isnan(diversity(same[:1]))
    halves = torch.zeros(2, 4, 4, dtype=torch.bool)
    halves[0, :2], halves[1, 2:] = True, True
    assert diversity(halves) == 1


def each_region(function, *sets):
    """Mean of a function over images and regions of sets (B, S, K, H, W)."""
    values = [function(*(x[i, :, k] for x in sets)) for i in range(4) for k in range(2)]
    return float(torch.stack(values).mean())


def test_modules_average_over_batches():
    a, b = masks(11, 4, 3, 2, 6, 6), masks(12, 4, 3, 2, 6, 6)
    expected = {
        Dice(): (a[:, 0], b[:, 0], float(dice(a[:, 0], b[:, 0]).mean())),
        IoU(): (a[:, 0], b[:, 0], float(iou(a[:, 0], b[:, 0]).mean())),
        SampleDiversity(): (a, None, each_region(diversity, a)),
        GeneralizedEnergyDistance(): (a, b, each_region(lambda x, y: generalized_energy_distance(x, y).unbiased, a, b)),
        GeneralizedEnergyDistance(False): (
            a,
            b,
            each_region(lambda x, y: generalized_energy_distance(x, y).biased, a, b),
        ),
    }
    for metric, (x, y, value) in expected.items():
        for part in (slice(1), slice(1, None)):
            metric.update(x[part], *([] if y is None else [y[part]]))
        assert float(metric.compute()) == pytest.approx(value)


def test_energy_distance_leaves_padded_raters_out():
    samples, raters = masks(1, 1, 3, 1, 6, 6), masks(2, 1, 4, 1, 6, 6)
    metric = GeneralizedEnergyDistance()
    metric.update(samples, raters, torch.tensor([[True, True, False, False]]))
    expected = generalized_energy_distance(samples[0, :, 0], raters[0, :2, 0]).unbiased
    assert float(metric.compute()) == pytest.approx(float(expected))


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for i in range(200):
        low, high = bootstrap_interval(torch.randn(40, generator=generator).numpy(), draws=500, seed=i)
        covered += low <= 0 <= high
    assert 0.89 <= covered / 200 <= 0.99
    assert torch.tensor(bootstrap_interval([0.5, float("nan")])).isnan().all()  # one case has no spread
    assert bootstrap_interval([0.5, 0.5, float("nan")]) == (0.5, 0.5)
    assert all(math.isnan(end) for end in bootstrap_interval([]))


def test_patients_are_drawn_with_all_their_cases():
    """Cases of a patient that are all alike tell no more than one of them."""
    rng = np.random.default_rng(0)
    by_patient = rng.normal(size=30)
    repeated, patients = by_patient.repeat(8), np.arange(30).repeat(8)
    assert bootstrap_interval(repeated, patients=patients) == pytest.approx(bootstrap_interval(by_patient), abs=1e-12)
    low, high = bootstrap_interval(repeated)
    assert high - low < 0.5 * np.subtract(*bootstrap_interval(repeated, patients=patients)[::-1])
    alone = [f"p{i}" for i in range(30)]
    assert bootstrap_interval(by_patient, patients=alone) == bootstrap_interval(by_patient)
    assert all(math.isnan(end) for end in bootstrap_interval(repeated, patients=["one"] * 240))


def test_an_interval_over_patients_covers_the_mean_as_often_as_it_says():
    """Also where patients have one case or ten; over cases it would cover it far too seldom."""
    rng, covered, over_cases = np.random.default_rng(0), 0, 0
    for i in range(200):
        sizes = rng.integers(1, 11, 40)
        patients = np.arange(40).repeat(sizes)
        values = rng.normal(size=40).repeat(sizes) + 0.3 * rng.normal(size=sizes.sum())
        low, high = bootstrap_interval(values, draws=500, seed=i, patients=patients)
        covered += low <= 0 <= high
        low, high = bootstrap_interval(values, draws=500, seed=i)
        over_cases += low <= 0 <= high
    assert 0.87 <= covered / 200 <= 0.99
    assert over_cases / 200 < 0.75


def test_dice_of_what_has_foreground_is_not_won_by_an_empty_answer():
    reference = masks(5, 6, 2, 8, 8)
    reference[2:] = False  # most cases are empty
    cases = list("aabcde")
    nothing, right, alarm = torch.zeros_like(reference), reference.clone(), reference.clone()
    alarm[4, 0, 0, 0] = True
    found = {}
    for name, answer in (("nothing", nothing), ("right", right), ("alarm", alarm)):
        metric = ForegroundDice()
        for first, last in ((0, 1), (1, 4), (4, 6)):
            metric.update(answer[first:last], reference[first:last], cases[first:last])
        found[name] = float(metric.compute())
    assert found == {"nothing": 0, "right": 1, "alarm": pytest.approx(2 / 3)}
    metric = ForegroundDice()
    metric.update(nothing, nothing, cases)
    assert metric.compute() == 1  # nothing to find, and nothing found


def test_soft_dice_confidence_is_the_expected_overlap_of_a_mask_and_its_probability():
    probability = torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(0))
    mask = probability > 0.5
    confidence = soft_dice_confidence(*soft_overlap(probability, mask))
    for p, m, c in zip(probability.double(), mask, confidence, strict=True):
        total = sum(float(p[i, j]) * bool(m[i, j]) for i in range(9) for j in range(7))
        assert float(c) == pytest.approx(2 * total / (float(p.sum()) + int(m.sum())))


def test_overlap_of_volumes_is_that_of_their_pooled_slices():
    a, b = masks(3, 6, 2, 8, 8), masks(4, 6, 2, 8, 8)
    cases = ["x", "x", "x", "y", "z", "z"]
    for metric, function in ((Dice(), dice), (IoU(), iou)):
        for first, last in ((0, 2), (2, 3), (3, 6)):  # a case may go on in the next batch
            metric.update(a[first:last], b[first:last], cases[first:last])
        pooled = [function(a[i].transpose(0, 1).flatten(1, 2), b[i].transpose(0, 1).flatten(1, 2)) for i in
                  (slice(0, 3), slice(3, 4), slice(4, 6))]  # fmt: skip
        assert float(metric.compute()) == pytest.approx(float(torch.stack(pooled).mean()))
        with pytest.raises(NotImplementedError, match="call update and compute"):
            metric(a, b)
        metric.reset()
        metric.update(a[4:], b[4:], cases[4:])
        assert float(metric.compute()) == pytest.approx(float(pooled[2].mean()))


def test_soft_dice_confidence_at_its_ends():
    empty, full = torch.zeros(3, 3), torch.ones(3, 3)
    for probability, mask, expected in (
        (full, full, 1),  # certain of all
        (empty, empty, 1),  # certain of nothing
        (full * 0.4, empty, 0),  # empty, beside doubt
        (full * 0.6, full, 0.75),
    ):
        assert float(soft_dice_confidence(*soft_overlap(probability, mask.bool()))) == pytest.approx(expected)


def test_soft_dice_confidence_of_slices_adds_up_to_that_of_the_volume():
    volume = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(1))
    slices = torch.stack(soft_overlap(volume, volume > 0.3)).sum(1)
    whole = torch.stack(soft_overlap(volume.flatten(0, 1), volume.flatten(0, 1) > 0.3))
    assert torch.allclose(soft_dice_confidence(*slices), soft_dice_confidence(*whole))
