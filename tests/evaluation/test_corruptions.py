"""Corruptions of photographs: each changes the image, none its size, and the key alone decides."""

import pytest
import torch

from diffmedseg.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from diffmedseg.keyed_random import keyed_generator


@pytest.fixture(scope="module")
def photograph():
    """(3, 75, 110), in [0, 1]: sides that are no multiples of JPEG's blocks."""
    coarse = 0.2 + 0.5 * torch.rand(1, 3, 5, 7, generator=keyed_generator("skin"))
    smooth = torch.nn.functional.interpolate(coarse, (75, 110), mode="bilinear")[0]
    return smooth + 0.1 * torch.rand(smooth.shape, generator=keyed_generator("detail"))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severer_corruptions_change_more(name, photograph):
    before = photograph.clone()
    changes = []
    for severity in SEVERITIES:
        corrupted = corrupt(photograph, name, severity, "case")
        assert corrupted.shape == photograph.shape
        assert ((corrupted >= 0) & (corrupted <= 1)).all()
        changes.append(float((corrupted - photograph).abs().mean()))
    assert 0.002 < changes[0] < changes[1] < changes[2]
    assert torch.equal(photograph, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_key_alone_decides(name, photograph):
    first = corrupt(photograph, name, "strong", "a")
    torch.manual_seed(1)
    assert torch.equal(first, corrupt(photograph, name, "strong", "a"))
    others = [corrupt(photograph, name, "strong", key) for key in "bcdefg"]
    assert any(not torch.equal(first, other) for other in others) == (name in {"hue", "noise", "hair"})


def test_warm_and_cold_are_opposite(photograph):
    red, _, blue = (corrupt(photograph, "warm") - photograph).mean((1, 2))
    assert red > 0.01 > -0.01 > blue
    red, _, blue = (corrupt(photograph, "cold") - photograph).mean((1, 2))
    assert red < -0.01 < 0.01 < blue


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 8, 8), "blurr"), "no corruption 'blurr'. Did you mean blur"),
        ((torch.zeros(3, 8, 8), "blur", "hard"), "no severity 'hard'. There are: mild, medium, strong"),
        ((torch.zeros(1, 8, 8), "blur"), r"shape \(1, 8, 8\); expected \(3, H, W\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(*arguments)
