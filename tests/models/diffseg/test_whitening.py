"""The border of an image as the healthy reference of DiffSeg."""

from types import SimpleNamespace

import pytest
import torch
from helpers.recorder import Recorder
from helpers.small_networks import small

from diffmedseg.data.labels import BorderCrops, BorderWhitening, FieldOfView
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.models import ClassConditionalUNet, DiffSegSegmenter
from diffmedseg.models.building import build, checkpoint_config
from diffmedseg.models.diffseg.difference import CounterfactualDifference, NoisePredictionDifference

WIDTH = 8  # pixels of the border of images of 32


def photograph(seed=0):
    """Skin that varies a little, and a dark disc, (3, 32, 32)."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    noise = 0.05 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return 0.3 + noise - 0.5 * ((y - 16) ** 2 + (x - 16) ** 2 < 25)


def border():
    where = torch.ones(32, 32, dtype=torch.bool)
    where[WIDTH:-WIDTH, WIDTH:-WIDTH] = False
    return where


class Photographs(ImageStore):
    def __init__(self):
        self.ids = self.cases = ["a", "b", "c"]

    def image(self, index):
        return ((photograph(index) + 1) * 127.5).round().to(torch.uint8)

    def masks(self, index):
        return torch.zeros(1, 1, 32, 32, dtype=torch.uint8)

    reference = masks


def whitening(**options):
    return BorderWhitening(width=WIDTH / 32, **options)


def segmenter(**options):
    """A model that says that all is 0, as is healthy once it is whitened."""
    return DiffSegSegmenter(Recorder(), image_size=(32, 32), num_samples=2, num_steps=2, blur=0.0, **options)


def test_the_border_becomes_centred_and_its_channels_even_and_independent():
    white = whitening(shrinkage=0.0, scale=0.1)(photograph())[:, border()]
    assert white.median(1).values.abs().max() < 0.01  # channels are mixed after each is centred
    assert torch.allclose(white @ white.T / white.shape[1], 0.01 * torch.eye(3), atol=1e-4)


def test_neither_light_nor_camera_shows_afterwards():
    image, own = photograph(), whitening()
    assert torch.allclose(own(image), own(0.4 * image - 0.3), atol=1e-4)
    assert own(image)[:, 16, 16].mean() < -0.9  # dark stays dark
    assert own(image).dtype == image.dtype


def test_dark_corners_are_left_out_where_the_field_of_view_is_known():
    image = photograph()
    image[:, :9, :9] = -0.98
    blind, aware = (whitening(field_of_view=view)(image) for view in (None, FieldOfView()))
    assert aware[:, 16, 16].mean() < 2 * blind[:, 16, 16].mean()


@pytest.mark.parametrize("image", [torch.zeros(3, 32, 32), -torch.ones(3, 32, 32)])
def test_an_image_without_variation_shows_nothing(image):
    assert not whitening(field_of_view=FieldOfView())(image).any()


@pytest.mark.parametrize("wrong", [{"width": 0.5}, {"scale": 0.0}, {"shrinkage": -1.0}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="has to be"):
        BorderWhitening(**wrong)


def test_crops_are_cut_from_whole_whitened_images():
    options = {"share": 0.25, "most_dark": 1.0, "most_uneven": 1.0}
    plain, white = (BorderCrops(**options, whitening=one)(Photographs()) for one in (None, whitening()))
    assert list(plain.ids) == list(white.ids)
    for index, name in enumerate(white.ids):
        number, top, left = "abc".index(name[0]), *map(int, name[5:].split(", "))
        whole = whitening()((Photographs().image(number) / 127.5) - 1)
        assert torch.allclose(white.image(index), whole[:, top : top + 8, left : left + 8], atol=1e-5)


def test_the_network_is_shown_whitened_images_and_the_lesion_is_what_is_not_healthy():
    image = torch.stack([photograph(0), 0.5 * photograph(1) - 0.4])
    model = segmenter(whitening=whitening(), polarity="either", difference=CounterfactualDifference(100, 100))
    maps = model.difference_maps(image, [[keyed_generator(key, s) for s in range(2)] for key in "ab"], 2)
    white = torch.stack([whitening()(one) for one in image])
    assert torch.allclose(maps, white.abs().mean(1, keepdim=True).expand(-1, 2, -1, -1), atol=1e-5)
    assert all((label == 0).all() for _, _, label in model.denoiser.calls)


def test_a_model_that_whitens_is_stored_and_built_again():
    whitens = whitening(field_of_view=FieldOfView(darkness=0.1))
    ranges = CounterfactualDifference(100, 300)
    network = small(ClassConditionalUNet)
    model = DiffSegSegmenter(network, image_size=(32, 32), whitening=whitens, difference=ranges)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    again = build(checkpoint_config(checkpoint))
    assert again.whitening.width == WIDTH / 32
    assert again.whitening.field_of_view.darkness == 0.1
    assert (again.difference.lowest, again.difference.highest) == (100, 300)


def test_counterfactuals_take_half_of_the_evaluations():
    rows = []
    for difference in (NoisePredictionDifference(), CounterfactualDifference()):
        model = segmenter(difference=difference)
        model.sample(photograph()[None], keys=["a"])
        rows.append(sum(len(x_t) for x_t, _, _ in model.denoiser.calls))
    assert rows == [8, 4]


@pytest.mark.parametrize("whole", [True, False])
def test_whole_images_are_shown_to_a_network_of_crops_where_that_is_asked_for(whole):
    model = segmenter(whole_images=whole)
    model.tiling.remember((8, 8))
    model.sample(photograph()[None], keys=["a"])
    assert {tuple(x_t.shape[-2:]) for x_t, _, _ in model.denoiser.calls} == {(32, 32) if whole else (8, 8)}


def test_a_model_and_crops_of_different_colours_are_refused():
    for own, others in ((whitening(), None), (None, whitening()), (whitening(), whitening(scale=0.2))):
        model = segmenter(whitening=own)
        recipe = BorderCrops(whitening=others)
        model._trainer = SimpleNamespace(datamodule=SimpleNamespace(label_recipe=recipe))
        with pytest.raises(DataError, match="Give the same to"):
            model.setup("fit")
    model = segmenter(whitening=whitening())
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(label_recipe=BorderCrops(whitening=whitening())))
    model.setup("fit")
    with pytest.raises(ValueError, match="supervision is pairs, which takes no whitening"):
        segmenter(whitening=whitening(), supervision="pairs")
