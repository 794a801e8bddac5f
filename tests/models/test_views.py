"""Test-time augmentation by flips."""

import warnings

import pytest
import torch
from helpers.dark_disc import DarkSegmenter, dark_segmenter

from diffmedseg.models.views import VIEWS, flip
from diffmedseg.postprocessing.calibration import TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.segmentation import SampleSet

IMAGES = torch.rand(3, 3, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
KEYS = ["a", "b", "c"]


class EquivariantSegmenter(DarkSegmenter):
    """A flipped image has the flipped mask; there is no noise."""

    def draw_samples(self, image, generators, num_steps):
        found = (0.5 - 5 * image.mean(1)[:, None, None]).clamp(0, 1)
        return SampleSet(found.expand(-1, len(generators[0]), -1, -1, -1), found[:, 0])


class RampSegmenter(DarkSegmenter):
    """Whatever the image is, what is right and low is foreground: an offset that flips average away."""

    def draw_samples(self, image, generators, num_steps):
        rows, columns = (torch.linspace(0, 1, side) for side in image.shape[-2:])
        ramp = (rows[:, None] * 0.5 + columns * 0.5).expand(len(image), len(generators[0]), 1, -1, -1)
        return SampleSet(ramp, ramp[:, 0])


def segmenter(cls=DarkSegmenter, **options):
    return dark_segmenter(cls=cls, **{"image_size": (32, 24), "num_samples": 8} | options)


def test_flips_of_an_equivariant_model_change_nothing():
    model = segmenter(EquivariantSegmenter)
    plain, flipped = (model.segment(IMAGES, keys=KEYS, tta=tta) for tta in VIEWS)
    assert torch.equal(plain.samples, flipped.samples)
    assert torch.equal(plain.probability, flipped.probability)
    assert torch.equal(plain.prior, flipped.prior)


def test_a_constant_offset_is_averaged_away():
    model = segmenter(RampSegmenter)
    assert model.segment(IMAGES).probability.std() > 0.1
    result = model.segment(IMAGES, tta="flips")
    torch.testing.assert_close(result.probability, torch.full_like(result.probability, 0.5))
    torch.testing.assert_close(result.prior, torch.full_like(result.prior, 0.5))


def test_each_sample_is_that_of_its_view_flipped_back():
    """Sample s has the noise of sample s, and the view s modulo 4."""
    model = segmenter()
    flipped = model.segment(IMAGES, keys=KEYS, tta="flips").samples
    for view, axes in enumerate(VIEWS["flips"]):
        own = flip(model.segment(flip(IMAGES, axes), keys=KEYS).samples, axes)
        assert torch.equal(flipped[:, view::4], own[:, view::4])


def test_more_samples_begin_with_the_fewer_ones_and_batches_change_nothing():
    model = segmenter(tta="flips")
    many, few = (model.segment(IMAGES, n, keys=KEYS).samples for n in (11, 5))
    assert torch.equal(many[:, :5], few)
    alone = [model.segment(IMAGES[i : i + 1], 11, keys=KEYS[i : i + 1]).samples for i in range(3)]
    assert torch.equal(many, torch.cat(alone))
    model.pixels_per_pass = 1
    assert torch.equal(many, model.segment(IMAGES, 11, keys=KEYS).samples)


def test_views_weigh_alike_with_any_number_of_samples():
    model = segmenter()
    result = model.segment(IMAGES, 6, keys=KEYS, tta="flips")
    views = torch.stack([result.samples[:, view::4].mean(1) for view in range(4)])
    torch.testing.assert_close(result.probability, views.mean(0))
    assert not torch.allclose(result.probability, result.samples.mean(1))


def test_there_is_a_sample_for_each_view():
    model = segmenter(num_samples=1)
    assert model.segment(IMAGES, tta="flips").samples.shape[1] == 4
    with pytest.raises(ValueError, match="num_samples is 3, and there are 4 members and views: take at least 4"):
        model.segment(IMAGES, 3, tta="flips")
    with pytest.raises(ValueError, match=r"tta is .turns.; it may be none or flips"):
        segmenter(tta="turns")


@pytest.mark.parametrize("fitted", VIEWS)
def test_what_was_fitted_with_other_views_is_said(fitted):
    fits = {"calibration": TemperatureScaling(2.0), "conformal": Conformal([0.9], [0.1], [1.5], 0.95, 0.9, 20, 8, 1)}
    for name, fit in fits.items():
        model = segmenter(fitted_tta=fitted, **{name: fit})
        for tta in VIEWS:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.segment(IMAGES, tta=tta)
            said = [
                f"were fitted with tta={fitted}, and need not hold with tta={tta}" in str(one.message) for one in caught
            ]
            assert said == ([] if tta == fitted else [True])
