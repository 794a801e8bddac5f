import inspect

import numpy as np
import pytest
import torch
from helpers.staple import simpleitk_staple
from hypothesis import given, strategies as st

from diffmedseg.postprocessing import fusion

RULES = [
    c
    for _, c in inspect.getmembers(fusion, inspect.isclass)
    if issubclass(c, fusion.Fusion) and not inspect.isabstract(c)
]


def samples(seed, s=5):
    return torch.rand(2, s, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 50), s=st.integers(1, 6))
def test_unanimous_samples_fuse_to_themselves(rule, seed, s):
    """The reference code's "STAPLE" squares the mean: unanimous background becomes foreground."""
    mask = (samples(seed)[:, :1] > 0.5).float()
    fused = rule()(mask.expand(-1, s, -1, -1, -1))
    torch.testing.assert_close(fused, mask[:, 0])


@pytest.mark.parametrize("rule", RULES)
def test_order_changes_nothing_and_range_is_kept(rule):
    values = samples(1)
    fused = rule()(values)
    torch.testing.assert_close(rule()(values.flip(1)), fused)
    assert 0 <= fused.min() <= fused.max() <= 1


def test_majority_counts_votes_and_mean_weighs_them():
    votes = torch.tensor([0.51, 0.51, 0.0]).reshape(1, 3, 1, 1, 1)
    assert fusion.MajorityFusion()(votes) > 0.5 > fusion.MeanFusion()(votes)


@pytest.mark.parametrize("rule", RULES)
def test_weights_count_samples(rule):
    values = samples(2, s=4)
    doubled, left_out = rule()(values, torch.tensor([2, 1, 0, 1])), values[:, [0, 0, 1, 3]]
    torch.testing.assert_close(doubled, rule()(left_out))
    torch.testing.assert_close(rule()(values, torch.ones(2, 4)), rule()(values))
    one = torch.eye(4)[[3, 0]]  # another one for each image
    alone = torch.stack([values[0, 3], values[1, 0]])[:, None]
    torch.testing.assert_close(rule()(values, one) > 0.5, rule()(alone) > 0.5)


@pytest.mark.parametrize("weight", [1.0, 2.0, 0.1, 1 / 3])
@pytest.mark.parametrize("s", [2, 6, 10, 20, 34, 98, 100, 250])
def test_a_tie_of_equal_weights_is_no_majority(s, weight):
    generator = torch.Generator().manual_seed(s)
    votes = torch.stack([(torch.randperm(s, generator=generator) < s // 2).float() for _ in range(200)], 1)
    fused = fusion.MajorityFusion()(votes.reshape(1, s, 1, 10, 20), torch.full((s,), weight))
    assert torch.equal(fused, torch.full_like(fused, 0.5))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 1], [0, 0, 0], [[1, 1, 1]] * 3])
def test_weights_that_do_not_fit(rule, weights):
    with pytest.raises(ValueError, match=r"expected \(3,\) or \(2, 3\)"):
        rule()(samples(0, s=3), torch.tensor(weights))


def noisy_discs(seed, s):
    """Raters with a bias and a noise of their own, (S, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :40]
    masks = []
    for rater in range(s):
        middle, radius = 20 + rng.normal(0, 2, 2), 9 + rng.normal(0, 2)
        disc = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
        masks.append(disc ^ (rng.random((40, 40)) < 0.02 * (rater + 1) / s))
    return np.stack(masks)


@pytest.mark.parametrize("s", [3, 4, 8, 20, 70])
def test_staple_is_that_of_simpleitk(s):
    """Several images and regions at once, each estimated by itself."""
    sets = np.stack([[noisy_discs(10 * b + k, s) for k in range(2)] for b in range(2)])  # B, K, S, H, W
    truth, sensitivity, specificity = fusion.STAPLEFusion().estimate(torch.from_numpy(sets).float().transpose(1, 2))
    for b in range(2):
        for k in range(2):
            expected = simpleitk_staple(sets[b, k])
            for found, wanted in zip((truth[b, k], sensitivity[b, k], specificity[b, k]), expected, strict=True):
                assert np.allclose(found, wanted, atol=1e-3)


def disagreeing_raters(seed):
    """Three to twelve raters (S, 24, 24) of whom some draw little, much, something else or nothing."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :24]
    masks = []
    for kind in rng.integers(0, 4, rng.integers(3, 13)):
        middle = (12, 12) if kind < 2 else rng.uniform(4, 20, 2)
        radius = (rng.uniform(1, 4), rng.uniform(5, 11), rng.uniform(2, 8), 0)[kind]
        disc = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
        masks.append(disc ^ (rng.random((24, 24)) < rng.choice([0, 0.01, 0.1])))
    return np.stack(masks)


def test_staple_ends_where_that_of_simpleitk_does():
    """The likelihood of raters who disagree has several maxima: the start decides which is found."""
    for seed in range(100):
        masks = disagreeing_raters(seed)
        expected, _, _ = simpleitk_staple(masks)
        truth = fusion.STAPLEFusion(tolerance=1e-6)(torch.from_numpy(masks).double()[None, :, None])[0, 0].numpy()
        assert np.allclose(truth, expected, atol=5e-3), seed  # SimpleITK stops earlier
        assert np.array_equal(truth > 0.5, expected > 0.5), seed


def test_the_start_decides_which_maximum_is_found():
    """With sensitivities that start near 1 most sets end as SimpleITK's do, and some do not."""
    apart = 0
    for seed in range(50):
        votes = torch.from_numpy(disagreeing_raters(seed)).double()[None, :, None]
        one, other = (fusion.STAPLEFusion(tolerance=1e-6, start=start)(votes) for start in ("votes", "performance"))
        apart += bool((one - other).abs().max() > 0.5)
    assert 0 < apart < 25
    with pytest.raises(ValueError, match=r"no start 'vote'\. Did you mean votes"):
        fusion.STAPLEFusion(start="vote")


def test_the_released_staple_is_the_square_of_the_mean():
    """guided_diffusion/utils.py of MedSegDiff, commit b4aee37: an if stands where a loop was meant."""
    values = samples(3)
    torch.testing.assert_close(fusion.SquaredMeanFusion()(values), values.mean(1) ** 2)
    votes = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).reshape(1, 5, 1, 1, 1)
    assert fusion.MajorityFusion()(votes) > 0.5 > fusion.SquaredMeanFusion()(votes)


def test_staple_trusts_good_raters_more():
    """Three that agree outvote four that each say something else, where a majority would follow the four."""
    rng = np.random.default_rng(0)
    truth = rng.random((1, 1, 30, 30)) < 0.4
    good = [truth ^ (rng.random(truth.shape) < 0.01) for _ in range(3)]
    bad = [truth ^ (rng.random(truth.shape) < 0.4) for _ in range(4)]
    votes = torch.from_numpy(np.stack([*good, *bad], 1)[:, :, 0, None]).float()
    wrong = {rule: int(((rule()(votes)[0, 0] > 0.5).numpy() != truth[0, 0]).sum()) for rule in RULES}
    assert wrong[fusion.STAPLEFusion] < wrong[fusion.MajorityFusion] / 3


def test_staple_of_nothing_and_of_everything():
    votes = torch.stack([torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)])
    assert torch.equal(fusion.STAPLEFusion()(votes), votes[:, 0])


def smooth_discs(seed, s):
    """Raters who agree on most pixels exactly: sensitivities reach 1, and on the way the likelihood has plateaus."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48]
    middles, radii = rng.normal(24, 1.5, (s, 2)), rng.normal(9, 1, s)
    return np.stack([(y - m[0]) ** 2 + (x - m[1]) ** 2 < r**2 for m, r in zip(middles, radii, strict=True)])


def iterated(votes, iterations, start="votes"):
    """Warfield's equations 15, 18 and 19, for (S, N) votes of few raters."""
    truth = votes.mean(0)
    p = (votes @ truth / truth.sum())[:, None]
    q = (~votes @ (1 - truth) / (1 - truth).sum())[:, None]
    if start == "performance":
        p = q = np.full_like(p, 0.99999)
    for _ in range(iterations):
        inside = votes.mean() * np.where(votes, p, 1 - p).prod(0)
        outside = (1 - votes.mean()) * np.where(votes, 1 - q, q).prod(0)
        truth = inside / (inside + outside)
        p = (votes @ truth / truth.sum())[:, None]
        q = (~votes @ (1 - truth) / (1 - truth).sum())[:, None]
    return truth, p[:, 0], q[:, 0]


@pytest.mark.parametrize("start", ["votes", "performance"])
@pytest.mark.parametrize("iterations", [1, 9, 10, 11, 23])
def test_staple_stops_after_so_many_iterations(iterations, start):
    sets = np.stack([noisy_discs(seed, 4) for seed in range(3)])
    rule = fusion.STAPLEFusion(max_iterations=iterations, tolerance=0, start=start)
    found = rule.estimate(torch.from_numpy(sets).float()[:, :, None])
    for votes, truth, *performance in zip(sets, *found, strict=True):
        expected = iterated(votes.reshape(4, -1), iterations, start)
        for one, own in zip((truth, *performance), expected, strict=True):
            assert np.allclose(one.flatten(), own, atol=1e-10)


def test_staple_stops_where_nothing_changes_much():
    """Each set by itself: after the first iteration whose change is within the tolerance."""
    sets = np.stack([noisy_discs(seed, 4) for seed in range(6)])
    _, found, _ = fusion.STAPLEFusion(tolerance=1e-3).estimate(torch.from_numpy(sets).float()[:, :, None])
    lengths = set()
    for votes, sensitivity in zip(sets, found, strict=True):
        runs = [np.stack(iterated(votes.reshape(4, -1), count)[1:]) for count in range(1, 40)]
        first = next(i for i in range(1, 39) if abs(runs[i] - runs[i - 1]).max() <= 1e-3)
        assert np.allclose(sensitivity[0], runs[first][0], atol=1e-10)
        lengths.add(first)
    assert len(lengths) > 2


def test_sets_that_are_too_many_for_memory_are_estimated_in_parts(monkeypatch):
    votes = torch.from_numpy(np.stack([noisy_discs(seed, 40) for seed in range(4)])).float()[:, :, None]
    together = fusion.STAPLEFusion()(votes)
    monkeypatch.setattr(fusion.STAPLEFusion, "_AT_ONCE", 1)
    torch.testing.assert_close(fusion.STAPLEFusion()(votes), together)


def test_staple_leaves_plateaus_and_no_set_depends_on_others():
    sets = torch.from_numpy(np.stack([smooth_discs(seed, 8) for seed in range(30)])).float()[:, :, None]
    together = fusion.STAPLEFusion()(sets)
    apart = 0
    for votes, found in zip(sets, together, strict=True):
        assert torch.equal(fusion.STAPLEFusion()(votes[None])[0], found)
        expected, _, _ = simpleitk_staple(votes[:, 0].numpy().astype(bool))
        apart += bool((abs(found[0].numpy() - expected) > 1e-3).any())
    assert apart <= 1  # ITK stops earlier
