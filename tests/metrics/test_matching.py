from itertools import permutations

import pytest
import torch

from diffmedseg.metrics import pairwise_distance
from diffmedseg.metrics.matching import best_of_n_iou, hungarian_iou, rectangular_iou


@pytest.mark.parametrize(("samples", "raters"), [(2, 2), (4, 2), (2, 4), (3, 2), (1, 3)])
def test_matching_is_the_best_of_all(samples, raters):
    distances = torch.rand(samples, raters, generator=torch.Generator().manual_seed(samples))
    size = torch.lcm(torch.tensor(samples), torch.tensor(raters)).item()
    repeated = distances.repeat_interleave(size // samples, 0).repeat_interleave(size // raters, 1)
    best = max(sum(1 - repeated[i, j] for i, j in enumerate(order)) / size for order in permutations(range(size)))
    assert hungarian_iou(distances) == pytest.approx(float(best), abs=1e-6)


@pytest.mark.parametrize(("samples", "raters"), [(2, 2), (6, 3), (2, 4), (5, 1)])
def test_rectangular_matching_picks_the_best_samples(samples, raters):
    distances = torch.rand(samples, raters, generator=torch.Generator().manual_seed(raters)).double()
    long = distances if samples >= raters else distances.T
    orders = permutations(range(len(long)), long.shape[1])
    best = max(sum(1 - long[i, j] for j, i in enumerate(order)) / long.shape[1] for order in orders)
    assert rectangular_iou(distances) == pytest.approx(float(best))
    if samples >= raters:
        assert hungarian_iou(distances) <= rectangular_iou(distances) <= best_of_n_iou(distances)


def test_distributions_are_compared_where_the_oracle_picks():
    """One sample in four is right: the oracle finds it for every rater, the matching counts the other three."""
    right, wrong = torch.zeros(2, 8, 8, dtype=torch.bool)
    right[:4], wrong[4:] = True, True
    distances = pairwise_distance(torch.stack([right, wrong, wrong, wrong]), torch.stack([right, right]))
    assert best_of_n_iou(distances) == 1
    assert hungarian_iou(distances) == 0.25


def test_identical_sets():
    masks = torch.rand(5, 8, 8) > 0.5
    assert hungarian_iou(pairwise_distance(masks, masks)) == pytest.approx(1)
    assert best_of_n_iou(pairwise_distance(masks, masks)) == 1


@pytest.mark.parametrize(("samples", "raters"), [(16, 4), (32, 4), (6, 4), (5, 3)])
def test_repeating_both_sets_is_the_exact_matching_of_distributions(samples, raters):
    """The optimum of the linear program: each sample has mass 1 / S, each rater 1 / R."""
    from scipy.optimize import linprog

    distances = torch.rand(samples, raters, generator=torch.Generator().manual_seed(samples)).double()
    rows = torch.eye(samples).repeat_interleave(raters, 1)
    columns = torch.eye(raters).repeat(1, samples)
    masses = torch.cat([torch.full((samples,), 1 / samples), torch.full((raters,), 1 / raters)]).double()
    best = linprog(distances.flatten(), A_eq=torch.cat([rows, columns]), b_eq=masses)
    assert hungarian_iou(distances) == pytest.approx(1 - best.fun, abs=1e-6)
