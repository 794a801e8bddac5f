from collections import Counter

import pytest
from hypothesis import given, strategies as st

from diffmedseg.data.sampler import CaseSampler, TrainingSampler

items = st.integers(1, 40)


def deal(num_items, draws, epochs, seed=0, rank=0, world_size=1):
    dealt = []
    for epoch in range(epochs):
        sampler = TrainingSampler(num_items, draws, seed, rank, world_size, lambda epoch=epoch: epoch * draws)
        assert len(list(sampler)) == len(sampler)
        dealt += list(sampler)
    return dealt


@given(num_items=items, draws=st.integers(1, 30), seed=st.integers(0, 5))
def test_every_item_comes_once_per_shuffle(num_items, draws, seed):
    dealt = deal(num_items, draws, 5, seed)
    assert [draw for _, draw in dealt] == list(range(5 * draws))
    for first in range(0, len(dealt) - num_items + 1, num_items):
        assert sorted(index for index, _ in dealt[first : first + num_items]) == list(range(num_items))


@given(num_items=items, seed=st.integers(0, 5))
def test_order_does_not_depend_on_where_epochs_end(num_items, seed):
    assert deal(num_items, 24, 1, seed) == deal(num_items, 6, 4, seed)


@given(num_items=items, world_size=st.integers(1, 4))
def test_processes_share_the_draws_of_one(num_items, world_size):
    draws = 12 * world_size
    shares = [deal(num_items, draws, 2, 0, rank, world_size) for rank in range(world_size)]
    together = [pair for step in zip(*shares, strict=True) for pair in step]
    assert together == deal(num_items, draws, 2)


def test_seeds_and_shuffles_differ():
    a, b = deal(50, 100, 1, 0), deal(50, 100, 1, 1)
    assert [i for i, _ in a] != [i for i, _ in b]
    assert [i for i, _ in a[:50]] != [i for i, _ in a[50:]]


def test_what_cannot_be_dealt_is_refused():
    with pytest.raises(ValueError, match="empty"):
        TrainingSampler(0, 4)
    with pytest.raises(ValueError, match="evenly"):
        TrainingSampler(10, 5, world_size=2)


cases = st.lists(st.sampled_from("abcdef"), max_size=30)


@given(cases=cases, world_size=st.integers(1, 4))
def test_cases_stay_whole_and_nothing_is_dealt_twice(cases, world_size):
    shares = [list(CaseSampler(cases, rank, world_size)) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == list(range(len(cases)))
    owners = {cases[index]: rank for rank, share in enumerate(shares) for index in share}
    for rank, share in enumerate(shares):
        order = [cases[index] for index in share]
        assert all(owners[case] == rank for case in order)
        runs = Counter(a for a, b in zip(order, [*order[1:], None], strict=False) if a != b)
        assert not order or max(runs.values()) == 1  # the items of a case stand together
        assert len(CaseSampler(cases, rank, world_size)) == len(share)
