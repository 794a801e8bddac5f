"""Augmentation of ultrasound: keyed by image, never upside down, and never in the masks."""

import pytest
import torch

from diffmedseg.configurable import to_config
from diffmedseg.data import Augmentation, UltrasoundAugmentation
from diffmedseg.keyed_random import keyed_generator

STILL = {"flip": 0, "degrees": 0, "translate": 0, "scale": 0, "brightness": 0, "contrast": 0}
OFF = {"depth_gain": 0, "speckle": 0}
N, SIDE = 8, 32


def generators(keys=range(N)):
    return [keyed_generator("ultrasound", key) for key in keys]


@pytest.fixture(scope="module")
def images():
    """Grey images (N, 1, SIDE, SIDE) in the middle of the range, and masks of the upper half."""
    image = 0.3 + 0.4 * torch.rand(N, 1, SIDE, SIDE, generator=keyed_generator("tissue"))
    mask = torch.zeros(N, 1, SIDE, SIDE)
    mask[:, :, : SIDE // 2] = 1
    return image, mask


def test_an_image_is_augmented_alone_as_in_any_batch(images):
    image, mask = images
    together = UltrasoundAugmentation()(image, mask, generators())
    for order in ([3], [5, 0], [4, 3, 2, 1]):
        apart = UltrasoundAugmentation()(image[order], mask[order], generators(order))
        for found, expected in zip(apart, together, strict=True):
            torch.testing.assert_close(found, expected[order], atol=1e-5, rtol=0)


def test_images_are_mirrored_but_never_upside_down(images):
    image, mask = images
    augmented, flipped = UltrasoundAugmentation(**STILL | OFF | {"flip": 1})(image, mask, generators())
    torch.testing.assert_close(augmented, image.flip(-1), atol=1e-4, rtol=0)
    assert torch.equal(flipped, mask)
    _, standard = Augmentation(**STILL | {"flip": 1})(image, mask, generators())
    assert torch.equal(standard, mask.flip(-2))
    for seed in range(20):  # rotated, shifted and scaled, the upper half stays above
        _, moved = UltrasoundAugmentation()(image, mask, generators(range(N * seed, N * seed + N)))
        rows = (moved * torch.linspace(-1, 1, SIDE)[:, None]).sum((1, 2, 3))
        assert (rows < 0).all()


def test_masks_are_those_of_geometry_alone_and_images_stay_in_range(images):
    image, mask = images
    strong = UltrasoundAugmentation(depth_gain=1, speckle=1, brightness=1, contrast=1, probability=1)
    augmented, found = strong(image, mask, generators())
    _, still = UltrasoundAugmentation(**OFF, probability=1)(image, mask, generators())
    assert torch.equal(found, still)
    assert set(found.unique().tolist()) <= {0, 1}
    assert augmented.isfinite().all()
    assert (augmented.min(), augmented.max()) == (0, 1)


def test_all_amounts_at_0_change_nothing(images):
    image, mask = images
    same, _ = UltrasoundAugmentation(**STILL | OFF, probability=1)(image, mask, generators())
    torch.testing.assert_close(same, image, atol=1e-4, rtol=0)


def test_depth_gain_grows_from_the_upper_border_down(images):
    image, mask = images
    settings = STILL | OFF | {"depth_gain": 0.2, "probability": 1}
    change = (UltrasoundAugmentation(**settings)(image, mask, generators())[0] - image)[:, 0]
    torch.testing.assert_close(change[:, 0], torch.zeros(N, SIDE), atol=1e-4, rtol=0)
    assert (change[:, -1].abs() > change[:, SIDE // 2].abs()).all()
    assert change[:, -1].abs().max() <= 0.2 + 1e-4
    assert change[:, -1].min() < 0 < change[:, -1].max()


def test_speckle_scales_with_the_value_and_has_a_grain(images):
    _, mask = images
    settings = STILL | OFF | {"speckle": 0.3, "probability": 1}
    dark, light = (
        UltrasoundAugmentation(**settings)(torch.full((N, 1, SIDE, SIDE), v), mask, generators())[0] - v
        for v in (0.1, 0.4)
    )
    torch.testing.assert_close(4 * dark, light, atol=1e-4, rtol=0)
    assert (light.std((1, 2, 3)) <= 0.4 * 0.3).all()

    def neighbours(values):
        return torch.corrcoef(torch.stack([values[..., 1:].flatten(), values[..., :-1].flatten()]))[0, 1]

    fine = UltrasoundAugmentation(**settings, grain=0)(torch.full((N, 1, SIDE, SIDE), 0.4), mask, generators())[0] - 0.4
    assert neighbours(light) > 0.5 > 0.2 > neighbours(fine)


def test_channels_of_an_image_change_alike(images):
    image, mask = images
    augmented, _ = UltrasoundAugmentation()(torch.cat([image, image], 1), mask, generators())
    assert torch.equal(augmented[:, :1], augmented[:, 1:])


@pytest.mark.parametrize("wrong", [{"speckle": -1}, {"depth_gain": 2}, {"grain": 99}])
def test_impossible_amounts_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; expected 0 to"):
        UltrasoundAugmentation(**wrong)


def test_its_settings_are_recorded():
    config = to_config(UltrasoundAugmentation(speckle=0.1, flip=0))
    assert config["class_path"] == "diffmedseg.data.UltrasoundAugmentation"
    assert (config["init_args"]["speckle"], config["init_args"]["flip"], config["init_args"]["degrees"]) == (0.1, 0, 10)
