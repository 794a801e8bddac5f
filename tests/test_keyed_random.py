"""Noise between places on a line."""

import math

import pytest
import torch

from diffmedseg.keyed_random import (
    between,
    keyed_generator,
    keyed_integers,
    keyed_normal,
    keyed_uniform,
    sample_generator,
    slice_keys,
)

CPU = torch.device("cpu")


def noise(*positions, key=(0, "case", 0), shape=(20_000,)):
    return keyed_normal(shape, [between(key, position) for position in positions], CPU)


def test_noise_is_standard_normal_everywhere():
    rows = noise(0, 0.25, 0.5, 0.9, 1)
    assert rows.std(1).tolist() == pytest.approx([1] * 5, abs=0.03)
    assert rows.mean(1).tolist() == pytest.approx([0] * 5, abs=0.03)


def test_near_places_are_alike_and_distant_ones_are_not():
    positions = (0.0, 0.25, 1.0, 1.5, 2.0, 3.5)
    found = torch.corrcoef(noise(*positions))[0].tolist()
    assert found == pytest.approx([1, math.cos(math.pi / 8), 0, 0, 0, 0], abs=0.03)
    middle = torch.corrcoef(noise(0.5, 1.5, 2.5))
    assert middle[0].tolist() == pytest.approx([1, 0.5, 0], abs=0.03)


def test_noise_is_a_function_of_key_and_place():
    assert torch.equal(noise(0.3, 7.2)[1], noise(7.2)[0])
    assert not torch.equal(noise(7.2), noise(7.2, key=(0, "case", 1)))
    mixed = keyed_normal((8,), [between((0, "a"), 0.5), keyed_generator(0, "b")], CPU)
    assert torch.equal(mixed[1], keyed_normal((8,), [keyed_generator(0, "b")], CPU)[0])


def test_uniform_numbers():
    [drawn] = keyed_uniform(20_000, [between((0, "a"), 0.4)])
    assert (drawn.min() >= 0, drawn.max() <= 1) == (True, True)
    assert drawn.histc(10, 0, 1).tolist() == pytest.approx([2000] * 10, rel=0.1)
    plain = keyed_uniform(3, [keyed_generator(1)])
    assert torch.equal(plain[0], torch.rand(3, generator=keyed_generator(1)))


def of_slices(numbers, length, sample=0, volume="case"):
    keys = slice_keys(volume, numbers, 1.5, length)
    assert keys == [volume] * len(keys)  # whatever has no use for the place takes it for the volume's
    return keyed_normal((20_000,), [sample_generator(0, key, sample) for key in keys], CPU)


@pytest.mark.parametrize(
    ("length", "expected"), [(None, [1, 1, 1, 1]), (0, [1, 0, 0, 0]), (6.0, [1, math.cos(math.pi / 4), 0, 0])]
)
def test_slices_are_alike_by_their_distance(length, expected):
    assert torch.corrcoef(of_slices((0, 1, 4, 9), length))[0].tolist() == pytest.approx(expected, abs=0.03)
    rows = of_slices((3, 1), length)
    assert torch.equal(of_slices((1,), length)[0], rows[1])
    assert not torch.equal(of_slices((1,), length, sample=1)[0], rows[1])
    assert not torch.equal(of_slices((1,), length, volume="other")[0], rows[1])


def test_whole_numbers_between_places():
    found = keyed_integers(4, [between((0, "a", i), 0.4) for i in range(4000)])
    assert found.unique().tolist() == [0, 1, 2, 3]
    assert found.bincount().tolist() == pytest.approx([1000] * 4, rel=0.15)
