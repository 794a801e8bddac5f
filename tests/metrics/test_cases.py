import math

import pytest
import torch

from diffmedseg.metrics import diversity, generalized_energy_distance
from diffmedseg.metrics.cases import score_cases, score_image, summarise


def disc(size, radius):
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) / size * 2 - 1] * 2, indexing="ij")
    return (torch.hypot(x, y) < radius).to(torch.uint8)


def score(case="a", radius=0.5, reference=None, samples=2):
    mask = disc(32, radius).float()[None]
    reference = disc(64, 0.5)[None, None] if reference is None else reference
    return score_image(case, mask, mask.expand(samples, 1, -1, -1), reference, 0.5, 0.25)


def test_scores_are_taken_at_native_resolution():
    row = score_cases([score()], ["lesion"])[0]
    assert row.dice > 0.97
    assert row.diversity == 0
    assert math.isnan(row.ged_unbiased)  # one rater
    wrong = score_cases([score(radius=0.25)], ["lesion"])[0]
    assert wrong.dice == pytest.approx(2 * 0.25 / (1 + 0.25), abs=0.05)


def test_sets_of_volumes_are_compared_as_volumes():
    """What brute force says of whole volumes, which no mean over slices gives."""
    samples = torch.rand(3, 4, 1, 8, 8).round()  # slices, samples
    raters = torch.rand(3, 2, 1, 8, 8).round().to(torch.uint8)
    samples[2], raters[2] = 0, 0  # an empty slice changes nothing
    images = [score_image("a", s.mean(0), s, r, 0.5, 0.0) for s, r in zip(samples, raters, strict=True)]
    [row] = score_cases(images, ["lesion"])
    volumes, truths = samples.bool().transpose(0, 1), raters.bool().transpose(0, 1)
    energy = generalized_energy_distance(volumes, truths)
    assert row.diversity == pytest.approx(float(diversity(volumes)))
    assert (row.ged_biased, row.ged_unbiased) == pytest.approx((float(energy.biased), float(energy.unbiased)))
    assert row.distance_to_raters == pytest.approx(float(energy.sample_rater))
    assert row.rater_diversity == pytest.approx(float(energy.rater_rater))
    assert 2 * row.distance_to_raters - row.diversity - row.rater_diversity == pytest.approx(row.ged_unbiased)
    [nothing] = score_cases([images[2]], ["lesion"])
    assert nothing.diversity == 0


def test_slices_of_a_case_are_scored_as_one_volume():
    """A mean over slices would give the tiny slice the weight of the large one."""
    empty = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    large, false_alarm = score(), score(radius=0.05, reference=empty)
    row = score_cases([false_alarm, large, score("b")], ["lesion"])[0]
    assert row.num_slices == 2
    assert 0.9 < row.dice < 1
    assert row.seconds == 0.5


def test_raters_bring_energy_distance_and_a_majority():
    raters = torch.stack([disc(64, r) for r in (0.5, 0.5, 0.7)])[:, None]
    row = score_cases([score(reference=raters)], ["lesion"])[0]
    assert row.dice > 0.97
    assert row.ged_biased > 0
    assert row.num_raters == 3


def test_empty_predicted_empty_counts_one_and_is_marked():
    empty = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    row = score_cases([score(radius=0, reference=empty)], ["lesion"])[0]
    assert row.both_empty
    assert row.dice == 1


def test_summary_averages_cases_of_a_region():
    rows = score_cases([score("a"), score("b", radius=0.25)], ["lesion"])
    summary = {s.score: s for s in summarise(rows)}
    assert summary["dice"].mean == pytest.approx(sum(row.dice for row in rows) / 2)
    assert summary["dice"].low <= summary["dice"].mean <= summary["dice"].high
    assert summary["dice"].cases == 2
    assert "ged_biased" not in summary


def test_scores_of_sets():
    raters = torch.stack([disc(64, r) for r in (0.4, 0.4, 0.8)])[:, None]
    samples = torch.stack([disc(64, r) for r in (0.4, 0.8, 0.4)])[:, None].float()
    [row] = score_cases([score_image("a", samples.mean(0), samples, raters, 0.5, 0.0)], ["lesion"])
    assert row.hungarian_iou == row.best_of_n_iou == pytest.approx(1)
    assert row.rater_correlation == pytest.approx(1)
    assert row.ged_biased == pytest.approx(0, abs=1e-6)
    assert row.brier == pytest.approx(2 / 9 * float((raters.float().std(0) > 0).float().mean()), rel=1e-4)
    [one] = score_cases([score_image("a", samples.mean(0), samples, raters[:1], 0.5, 0.0)], ["lesion"])
    assert all(math.isnan(getattr(one, name)) for name in ("distance_to_raters", "rater_diversity"))
    assert all(math.isnan(getattr(one, name)) for name in ("hungarian_iou", "best_of_n_iou", "rater_correlation"))


def test_what_is_undefined_is_left_out():
    empty = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    [row] = score_cases([score(reference=empty)], ["lesion"])
    assert math.isnan(row.sensitivity)
    assert (row.precision, row.thresholded_jaccard) == (0, 0)
    [missed] = score_cases([score(radius=0)], ["lesion"])
    assert math.isnan(missed.precision)
    assert missed.sensitivity == 0
    [poor] = score_cases([score(radius=0.38)], ["lesion"])
    assert 0.5 < poor.iou < 0.65
    assert poor.thresholded_jaccard == 0


def test_a_rule_that_makes_probabilities_extreme_makes_no_case_sure():
    samples = torch.stack([disc(32, r) for r in (0.3, 0.5, 0.7)])[:, None].float()
    soft, hard = samples.mean(0), (samples.mean(0) > 0.5).float()
    rows = [
        score_cases([score_image("a", p, samples, disc(64, 0.5)[None, None], 0.5, 0)], ["x"])[0] for p in (soft, hard)
    ]
    assert rows[0].uncertainty == rows[1].uncertainty > 0.1


def test_what_a_refinement_does_to_probabilities_is_seen():
    """It makes them extreme: the mask stays, and its errors become certain. Of a volume, all slices count."""
    samples = torch.stack([disc(32, r) for r in (0.3, 0.5, 0.7)])[:, None].float()
    soft, reference = samples.mean(0), disc(64, 0.6)[None, None]
    hard = (soft > 0.5).float()
    images = [score_image("a", hard, samples, r, 0.5, 0, soft) for r in (reference, 0 * reference)]
    [row], [before] = (
        score_cases(found, ["x"])
        for found in (images, [score_image("a", soft, samples, r, 0.5, 0) for r in (reference, 0 * reference)])
    )
    assert row.dice == row.dice_unrefined == before.dice
    assert (row.nll_unrefined, row.brier_unrefined) == (before.nll, before.brier)
    assert row.nll > row.nll_unrefined
    assert math.isnan(before.nll_unrefined)


def test_doubt_of_an_empty_mask_is_how_many_samples_find_something():
    """Any probability beside an empty mask makes its soft Dice confidence 0, the surest case the most doubtful."""
    nothing = torch.zeros(4, 1, 32, 32)
    reference = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    some = nothing.clone()
    some[0] = disc(32, 0.3)
    rows = [
        score_cases([score_image("a", samples.mean(0) + 1e-6, samples, reference, 0.5, 0)], ["x"])[0]
        for samples in (nothing + 1e-6, some)
    ]
    assert [row.uncertainty for row in rows] == [0, 0.25]


def drawn_sets(size=40, raters=4, seed=0):
    """An image with soft samples of discs and raters, some of each empty."""
    rng = torch.Generator().manual_seed(seed)
    radii = (0.3 + 0.4 * torch.rand(size + raters, generator=rng)) * (torch.rand(size + raters, generator=rng) > 0.4)
    masks = torch.stack([disc(24, float(r)) for r in radii])[:, None]
    return masks[:size].float(), masks[size:]


def test_one_test_has_the_scores_of_its_first_samples():
    samples, raters = drawn_sets(120)
    found = {}
    for n in (15, 16, 32, 40, 100, 120):
        image = score_image("a", samples[:n].mean(0), samples[:n], raters, 0.5, 0.0)
        [found[n]] = score_cases([image], ["lesion"])
    assert found[40].ged_16 == pytest.approx(found[16].ged_biased)
    assert found[40].hungarian_iou_16 == pytest.approx(found[16].hungarian_iou)
    assert found[40].hungarian_iou_32 == pytest.approx(found[32].hungarian_iou)
    assert found[120].ged_100 == pytest.approx(found[100].ged_biased)
    assert found[40].rectangular_iou_16 == pytest.approx(found[16].rectangular_iou_16)
    assert found[40].rectangular_iou_32 > found[40].hungarian_iou_32
    assert math.isnan(found[40].ged_100)
    assert found[40].ged_16 != pytest.approx(found[40].ged_biased)
    assert math.isnan(found[16].hungarian_iou_32)
    assert math.isnan(found[15].ged_16)


def test_whether_anything_is_found_is_told_apart_from_its_shape():
    samples, raters = drawn_sets()
    image = score_image("a", samples.mean(0), samples, raters, 0.5, 0.0)
    [row] = score_cases([image], ["lesion"])
    assert row.samples_filled == pytest.approx(float(samples.flatten(1).any(1).double().mean()))
    assert row.raters_filled == pytest.approx(float(raters.flatten(1).any(1).double().mean()))
    outlined, nothing = torch.stack([disc(24, 0.5)] * 4)[:, None], torch.zeros(4, 1, 24, 24, dtype=torch.uint8)
    answers = {True: outlined[:2].float(), False: nothing[:2].float()}
    for reference in (outlined, nothing):
        for is_found, answer in answers.items():
            image = score_image("a", answer.mean(0), answer, reference, 0.5, 0.0)
            [row] = score_cases([image], ["lesion"])
            assert math.isnan(row.found) if reference is nothing else row.found == is_found
            assert math.isnan(row.left_empty) if reference is outlined else row.left_empty == (not is_found)
    [alone] = score_cases([score()], ["lesion"])
    assert math.isnan(alone.found)
    assert math.isnan(alone.left_empty)


def test_intervals_are_over_patients_where_they_are_known():
    radii = [0.3, 0.3, 0.3, 0.5, 0.5, 0.5]
    images = [score(f"c{i}", radius) for i, radius in enumerate(radii)]
    rows = {
        name: score_cases(images, ["lesion"], patients=patients)
        for name, patients in (
            ("cases", None),
            ("patients", {f"c{i}": "ab"[i // 3] for i in range(6)}),
            ("alone", {f"c{i}": f"p{i}" for i in range(6)}),
        )
    }
    assert [row.patient for row in rows["patients"]] == list("aaabbb")
    found = {name: next(one for one in summarise(own) if one.score == "dice") for name, own in rows.items()}
    assert found["alone"] == found["cases"]
    assert found["patients"].mean == found["cases"].mean
    dice = [row.dice for row in rows["cases"]]
    assert (found["patients"].low, found["patients"].high) == pytest.approx((min(dice), max(dice)))
    assert found["cases"].high - found["cases"].low < 0.9 * (max(dice) - min(dice))
