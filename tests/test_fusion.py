import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffmedseg import fusion

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
    torch.testing.assert_close(rule()(mask.expand(-1, s, -1, -1, -1)), mask[:, 0])


@pytest.mark.parametrize("rule", RULES)
def test_order_changes_nothing_and_range_is_kept(rule):
    values = samples(1)
    fused = rule()(values)
    torch.testing.assert_close(rule()(values.flip(1)), fused)
    assert 0 <= fused.min() <= fused.max() <= 1


def test_majority_counts_votes_and_mean_weighs_them():
    votes = torch.tensor([0.51, 0.51, 0.0]).reshape(1, 3, 1, 1, 1)
    assert fusion.MajorityFusion()(votes) > 0.5 > fusion.MeanFusion()(votes)
