"""Augmentation of photographs of skin: keyed by image, in range, off at 0, and never in the masks."""

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser

from diffmedseg.configurable import to_config
from diffmedseg.data import Augmentation, DermoscopyAugmentation, SyntheticDataModule
from diffmedseg.data.augmentation import variations
from diffmedseg.data.augmentation.hair import draw_hair, random_hair
from diffmedseg.data.configured import build_data
from diffmedseg.keyed_random import keyed_generator

#: Every amount of its own, and whether it happens with ``probability`` (True) or ``rare``.
AMOUNTS = {
    "hue": True, "saturation": True, "white_balance": True, "gamma": True, "blur": False, "sharpen": False,
    "resolution": False, "noise": False, "vignette": False, "hair": False, "jpeg": False,
}  # fmt: skip
OFF = dict.fromkeys(AMOUNTS, 0)
STILL = {"flip": 0, "degrees": 0, "translate": 0, "scale": 0, "brightness": 0, "contrast": 0}
N, SIDE = 6, 32


def generators(keys=range(N)):
    return [keyed_generator("photographs", key) for key in keys]


@pytest.fixture(scope="module")
def photographs():
    """Images (N, 3, SIDE, SIDE) of smooth colours with some detail, and masks of a disc."""
    generator = keyed_generator("skin")
    coarse = 0.3 + 0.4 * torch.rand(N, 3, 4, 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    image = (image + 0.1 * torch.rand(image.shape, generator=generator)).clamp(0, 1)
    return image, (variations.radii((SIDE, SIDE), torch.zeros(N, 2)) < 0.5)[:, None].float()


def test_an_image_is_augmented_alone_as_in_any_batch(photographs):
    image, mask = photographs
    augment = DermoscopyAugmentation(rare=0.6)
    together = augment(image, mask, generators())
    for order in ([3], [5, 0], [4, 3, 2, 1]):
        apart = augment(image[order], mask[order], generators(order))
        for found, expected in zip(apart, together, strict=True):
            torch.testing.assert_close(found, expected[order], atol=1e-5, rtol=0)


def test_images_stay_in_range_and_inputs_untouched(photographs):
    image, mask = photographs
    before = image.clone()
    strong = dict.fromkeys(("saturation", "vignette", "noise"), 1.0) | {"hue": 180, "gamma": 2, "white_balance": 0.9}
    augmented, _ = DermoscopyAugmentation(**strong, sharpen=5, jpeg=99, rare=1, probability=1)(
        image, mask, generators()
    )
    assert augmented.isfinite().all()
    assert (augmented.min(), augmented.max()) == (0, 1)
    assert torch.equal(image, before)


def test_masks_are_those_of_geometry_alone(photographs):
    image, mask = photographs
    _, plain = Augmentation(scale=0.3)(image, mask, generators())
    _, augmented = DermoscopyAugmentation(rare=1)(image, mask, generators())
    assert torch.equal(augmented, plain)


def test_all_amounts_at_0_leave_the_standard_augmentation(photographs):
    image, mask = photographs
    plain = Augmentation(scale=0.3)(image, mask, generators())
    off = DermoscopyAugmentation(**OFF, rare=1)(image, mask, generators())
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))
    same, _ = DermoscopyAugmentation(**OFF | STILL, rare=1)(image, mask, generators())
    torch.testing.assert_close(same, image, atol=1e-4, rtol=0)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_every_amount_changes_images_as_often_as_its_probability_says(amount, photographs):
    image, mask = photographs
    value = {"hair": 12, "jpeg": 80, "hue": 15, "sharpen": 1}.get(amount, 0.1)
    changed = []
    for chance in (0, 1):
        settings = STILL | OFF | {amount: value} | ({"probability": chance} if AMOUNTS[amount] else {"rare": chance})
        augmented, _ = DermoscopyAugmentation(**settings)(image, mask, generators())
        changed.append([float((one - two).abs().max()) > 1e-3 for one, two in zip(augmented, image, strict=True)])
    assert not any(changed[0])
    assert sum(changed[1]) >= N - 1  # an amount drawn near 0 changes little


def test_a_black_border_leaves_the_foreground_free(photographs):
    image, _ = photographs
    mask = torch.zeros(N, 1, SIDE, SIDE)
    mask[:, :, :6, :6] = 1  # a lesion in the corner
    settings = STILL | OFF | {"vignette": 1, "rare": 1}
    augmented, _ = DermoscopyAugmentation(**settings)(image, mask, generators())
    torch.testing.assert_close(augmented[:, :, :6, :6], image[:, :, :6, :6], atol=1e-4, rtol=0)
    dark, _ = DermoscopyAugmentation(**settings)(image, mask[:, :0], generators())  # data with labels has no masks
    assert (dark[:, :, :2, :2].mean((1, 2, 3)) < image[:, :, :2, :2].mean((1, 2, 3)) - 0.05).all()


def test_an_image_and_its_healthy_counterpart_change_alike(photographs):
    image, mask = photographs
    settings = {"noise": 0, "rare": 1}  # noise differs between two photographs
    twice, _ = DermoscopyAugmentation(**settings)(torch.cat([image, image], 1), mask, generators())
    assert torch.equal(twice[:, :3], twice[:, 3:])


def test_grey_images_are_refused():
    with pytest.raises(ValueError, match=r"1 channels; DermoscopyAugmentation expects colour photographs"):
        DermoscopyAugmentation()(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), generators([0]))


@pytest.mark.parametrize("wrong", [{"hue": -1}, {"rare": 1.5}, {"jpeg": 100}, {"blur": 0.5}])
def test_impossible_amounts_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; expected 0 to"):
        DermoscopyAugmentation(**wrong)


def test_a_data_set_chooses_its_augmentation_and_a_checkpoint_builds_it_again():
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SyntheticDataModule, "data")
    chosen = {"class_path": "diffmedseg.data.DermoscopyAugmentation", "init_args": {"translate": 0, "hair": 0}}
    config = {"class_path": "diffmedseg.data.SyntheticDataModule", "init_args": {"augment": chosen}}
    data = parser.instantiate(parser.parse_object({"data": config})).data
    again = build_data(to_config(data))
    for augment in (data.augment, again.augment):
        assert isinstance(augment, DermoscopyAugmentation)
        assert (augment.translate, augment.hair, augment.degrees) == (0, 0, 180)


def test_colour_changes_keep_luminance_and_grey():
    from kornia.color import rgb_to_yuv

    image = 0.4 + 0.2 * torch.rand(1, 3, 8, 8, generator=keyed_generator("colour"))
    turned = variations.change_colour(image, torch.tensor([0.5]), torch.tensor([1.2]), torch.ones(1, 3))
    torch.testing.assert_close(rgb_to_yuv(turned)[:, 0], rgb_to_yuv(image)[:, 0], atol=5e-3, rtol=0)
    assert (turned - image).abs().max() > 0.01
    grey = torch.full((1, 3, 8, 8), 0.4)
    same = variations.change_colour(grey, torch.tensor([2.0]), torch.tensor([2.0]), torch.ones(1, 3))
    torch.testing.assert_close(same, grey, atol=5e-3, rtol=0)


def test_a_hair_is_as_wide_as_asked():
    curve = torch.tensor([[[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]]])  # straight, across the middle
    drawn = draw_hair(torch.ones(3, 41, 41), curve, torch.tensor([2.0]), torch.zeros(3))
    column = 1 - drawn[0, :, 20]
    assert column.argmax() == 20
    assert float(column.sum()) == pytest.approx(2, abs=0.1)
    curves, width, colour = random_hair(5, 100, keyed_generator("hair"))
    assert (curves.shape, colour.shape) == ((5, 3, 2), (3,))
    assert ((width >= 0.4) & (width <= 1)).all()
