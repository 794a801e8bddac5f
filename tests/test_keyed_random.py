"""Noise between places on a line."""

import math

import pytest
import torch

from diffmedseg.keyed_random import between, keyed_generator, keyed_normal, keyed_uniform

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
