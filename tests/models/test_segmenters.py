import gc
import io
import warnings

import numpy as np
import pytest
import torch
from helpers.dark_disc import dark_segmenter, disc, picture
from helpers.small_networks import small
from PIL import Image, ImageOps

from diffmedseg.configurable import to_config
from diffmedseg.models import (
    Condition,
    Denoiser,
    DiffusionSegmenter,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    ResidualUNet,
    SSNSegmenter,
    StochasticUNet,
    SupervisedSegmenter,
)
from diffmedseg.postprocessing.fusion import MajorityFusion
from diffmedseg.reading.pictures import turn_upright
from diffmedseg.zoo import build, checkpoint_config

IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
KEYS = [f"case-{i}" for i in range(8)]


class Oracle(Denoiser):
    """Knows the mask: the pixels whose first channel is positive."""

    def encode(self, image):
        return Condition((image,))

    def forward(self, x_t, t, condition, label=None):
        mask = condition.features[0][:, :1].sign()
        return 40 * mask.repeat_interleave(len(x_t) // len(mask), 0)


@pytest.fixture(params=["medsegdiff", "diffseg", "supervised", "ssn"])
def any_segmenter(request, segmenter, control, diffseg, ssn):
    return {"medsegdiff": segmenter, "diffseg": diffseg, "supervised": control, "ssn": ssn}[request.param]


def test_an_oracle_denoiser_gives_the_mask_at_every_size():
    segmenter = MedSegDiffSegmenter(Oracle(3, 1), image_size=(64, 64), num_steps=4)
    image = torch.nn.functional.interpolate(IMAGES[:2, :, :4, :4], (128, 96), mode="nearest")
    mask = segmenter.segment(image).mask
    assert mask.shape == (2, 1, 128, 96)
    assert (mask == (image[:, :1] > 0)).float().mean() > 0.97


def test_result_has_the_documented_shapes_and_ranges(any_segmenter):
    result = any_segmenter.segment(IMAGES, num_samples=3)
    assert result.samples.shape == (8, 3, 1, 32, 32)
    assert result.probability.shape == result.uncertainty.shape == result.mask.shape == (8, 1, 32, 32)
    assert result.mask.dtype == result.binary_samples.dtype == torch.bool
    for values, high in ((result.samples, 1), (result.probability, 1), (result.uncertainty, 0.5)):
        assert values.min() >= 0
        assert values.max() <= high
    assert torch.equal(result.mask, result.probability > any_segmenter.threshold)


def test_a_batch_of_eight_is_eight_batches_of_one(any_segmenter):
    together = any_segmenter.segment(IMAGES, keys=KEYS).samples
    alone = [any_segmenter.segment(IMAGES[i : i + 1], keys=KEYS[i : i + 1]).samples for i in range(8)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_order_and_chunks_change_nothing(any_segmenter):
    whole = any_segmenter.segment(IMAGES, keys=KEYS).samples
    order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    shuffled = any_segmenter.segment(IMAGES[order], keys=[KEYS[i] for i in order]).samples
    torch.testing.assert_close(shuffled, whole[order], atol=1e-4, rtol=0)
    for rows in (1, 3, 9):  # fewer rows than samples, some, more than two images
        any_segmenter.pixels_per_pass = rows * 32 * 32
        torch.testing.assert_close(any_segmenter.segment(IMAGES, keys=KEYS).samples, whole, atol=1e-4, rtol=0)


def test_the_first_samples_of_many_are_those_of_few(any_segmenter):
    many, few = (any_segmenter.segment(IMAGES[:2], num_samples=n).samples for n in (6, 2))
    torch.testing.assert_close(many[:, :2], few, atol=1e-4, rtol=0)


def test_evaluation_is_a_function_of_its_inputs(segmenter):
    first = segmenter.segment(IMAGES[:2]).samples
    torch.manual_seed(99)
    segmenter.train()
    assert torch.equal(segmenter.segment(IMAGES[:2]).samples, first)
    assert segmenter.training
    assert not torch.equal(segmenter.segment(IMAGES[:2], seed=1).samples, first)
    assert not torch.equal(segmenter.segment(IMAGES[:2], keys=["a", "b"]).samples, first)


def test_samples_of_an_image_differ(segmenter):
    samples = segmenter.segment(IMAGES[:1], num_samples=3).samples[0]
    assert not torch.allclose(samples[0], samples[1])


def test_the_image_is_encoded_once(segmenter):
    calls = []
    encode = segmenter.denoiser.encode
    segmenter.denoiser.encode = lambda image: calls.append(len(image)) or encode(image)
    segmenter.segment(IMAGES[:2], num_samples=5, num_steps=4)
    assert sum(calls) == 2


def test_sampling_builds_no_graph_and_keeps_no_memory(segmenter):
    """The released DPM-Solver path runs its last call with a graph: 2 GB per sample."""
    segmenter.train()
    assert segmenter.segment(IMAGES[:1]).samples.grad_fn is None
    counts = []
    for _ in range(3):
        segmenter.segment(IMAGES[:1])
        gc.collect()
        counts.append(sum(isinstance(o, torch.Tensor) for o in gc.get_objects()))
    assert counts[2] <= counts[1]
    assert all(p.grad is None for p in segmenter.parameters())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode(segmenter, mode):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).convert(mode)
    assert segmenter.segment(picture).mask.shape == (1, 1, 50, 70)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_segmented_upright_and_the_result_lies_over_it(orientation):
    stored = picture()
    stored.getexif()[0x112] = orientation
    model = dark_segmenter(image_size=(32, 48))
    found = model.segment(stored)
    upright = model.segment(ImageOps.exif_transpose(stored), keys=["a"])
    assert found.mask.shape[-2:] == found.probability.shape[-2:] == (60, 90)
    assert float((found.mask[0, 0].numpy() == disc()).mean()) > 0.97
    turned = turn_upright(model.segment(stored, keys=["a"]).samples, orientation)
    assert torch.equal(turned, upright.samples)


def test_pictures_of_more_than_eight_bits_have_the_models_range():
    levels = np.asarray(picture().convert("L")).astype(np.float32)
    model = dark_segmenter(("grey",), value_range=(-1, 1))
    plain = model.segment(picture().convert("L"), keys=["a"])
    assert torch.equal(model.segment(Image.fromarray(levels / 127.5 - 1), keys=["a"]).samples, plain.samples)
    with pytest.raises(ValueError, match=r"from -1 to .*value_range"):
        dark_segmenter(("grey",)).segment(Image.fromarray(levels / levels.max() - 1 - levels.min() / levels.max()))
    with pytest.warns(UserWarning, match="16 bits, but nothing above"):
        dark_segmenter(("grey",)).segment(Image.fromarray(levels.astype(np.uint16)))


def test_an_image_in_zero_to_one_draws_a_warning(segmenter):
    with pytest.warns(UserWarning, match=r"image \* 2 - 1"):
        segmenter.segment(IMAGES[:1].abs())


def test_frozen_parts_stay_frozen(segmenter):
    segmenter.train()
    segmenter.denoiser.decoder.eval()
    segmenter.segment(IMAGES[:1])
    assert segmenter.denoiser.training
    assert not segmenter.denoiser.decoder.training


def test_picture_array_and_tensor_agree(any_segmenter):
    array = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    turned = array[..., ::-1].copy()[..., ::-1]  # as whoever read it by OpenCV makes RGB of it
    of_pillow = np.asarray(Image.fromarray(array))  # may not be written to
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [
            any_segmenter.segment(image, keys=["k"]).samples
            for image in (
                Image.fromarray(array), array, turned, of_pillow, tensor, tensor[None], tensor.float() / 127.5 - 1
            )
        ]  # fmt: skip
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 4, 32, 32), r"expected \(B, 3, H, W\)"),
        (torch.full((3, 32, 32), float("nan")), "NaN"),
        (torch.full((3, 32, 32), 200.0), r"\[-1, 1\]"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), "uint8"),
        (torch.zeros(5), "shape"),
        ("lesion.jpg", "open it first"),
        (None, "NoneType is no image"),
        ([Image.new("RGB", (32, 32))] * 2, "list is no image"),
        (np.array([None]), "dtype is object"),
        (torch.zeros(0, 3, 32, 32), "nothing to segment"),
    ],
)
def test_what_does_not_fit_is_refused(segmenter, image, message):
    with pytest.raises(ValueError, match=message):
        segmenter.segment(image)


def test_keys_and_images_have_to_match(segmenter):
    with pytest.raises(ValueError, match="8 images and 1 keys"):
        segmenter.segment(IMAGES, keys=["one"])


def test_nested_regions_nest_in_samples_probability_and_mask():
    denoiser = small(MedSegDiffV1, 3, 2)
    segmenter = MedSegDiffSegmenter(denoiser, image_size=(32, 32), regions=("lesion", "core"), nested=True)
    result = segmenter.segment(torch.nn.functional.interpolate(IMAGES, (45, 51)), num_steps=2)
    assert (result.samples[:, :, 1] <= result.samples[:, :, 0]).all()
    assert (result.probability[:, 1] <= result.probability[:, 0]).all()
    assert (result.mask[:, 1] <= result.mask[:, 0]).all()
    free = MedSegDiffSegmenter(denoiser, image_size=(32, 32), regions=("a", "b")).segment(IMAGES, num_steps=2)
    assert (free.samples[:, :, 1] > free.samples[:, :, 0]).any()


def test_channels_and_regions_have_to_fit_the_network():
    with pytest.raises(ValueError, match="2 regions; the data has"):
        MedSegDiffSegmenter(small(MedSegDiffV1, 3, 2), regions=("lesion",))
    named_by_number = MedSegDiffSegmenter(small(MedSegDiffV1, 4, 2))
    assert named_by_number.channels == ("channel_1", "channel_2", "channel_3", "channel_4")
    assert named_by_number.regions == ("region_1", "region_2")


@pytest.mark.parametrize("arguments", [{"threshold": 1.0}, {"num_samples": 0}, {"val_num_steps": 0}])
def test_impossible_settings_are_refused(v1, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MedSegDiffSegmenter(v1, **arguments)


def test_base_is_abstract(v1):
    """Loading a checkpoint through a concrete base would silently drop the subclass's settings."""
    with pytest.raises(TypeError, match="abstract"):
        DiffusionSegmenter(v1)


def test_control_repeats_its_one_mask(control):
    result = control.segment(IMAGES[:2], num_samples=3)
    assert torch.equal(result.samples[:, 0], result.samples[:, 2])
    torch.testing.assert_close(result.probability, result.samples[:, 0])


def test_control_needs_a_network_with_a_mask_of_its_own(v1):
    with pytest.raises(ValueError, match="ResidualUNet or SMPNetwork"):
        SupervisedSegmenter(v1, image_size=(32, 32)).segment(IMAGES[:1])


def batch(rows, first=0):
    mask = (IMAGES[first : first + rows, :1] > 0).float()
    names = KEYS[first : first + rows]
    return {"image": IMAGES[first : first + rows], "mask": mask, "draw": list(range(first, first + rows)), "id": names}


def gradients(segmenter, batches):
    segmenter.zero_grad()
    for part in batches:
        (segmenter.training_loss(part) / len(batches)).backward()
    return [p.grad.clone() for p in segmenter.parameters()]


@pytest.mark.parametrize("levels", [1, 3])
def test_microbatches_give_the_full_batchs_gradient(v1, levels):
    """The released microbatch loop returns in its first pass and trains on the first images only."""
    segmenter = MedSegDiffSegmenter(v1.train(), image_size=(32, 32), noise_levels=levels)
    whole = gradients(segmenter, [batch(8)])
    parts = gradients(segmenter, [batch(2, first) for first in (0, 2, 4, 6)])
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_training_noise_is_keyed_by_draw(v1):
    segmenter = MedSegDiffSegmenter(v1, image_size=(32, 32))
    assert segmenter.training_loss(batch(2)) == segmenter.training_loss(batch(2))
    assert segmenter.training_loss(batch(2)) != segmenter.training_loss(batch(2) | {"draw": [8, 9]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: MedSegDiffSegmenter(small(MedSegDiffV1)),
        lambda: SupervisedSegmenter(small(ResidualUNet)),
        lambda: SSNSegmenter(small(StochasticUNet), mc_samples=4),
    ],
)
def test_a_checkpoint_made_in_python_loads_safely(make):
    """Built networks among the hyper-parameters would have to be pickled."""
    buffer, model = io.BytesIO(), make()
    torch.save(dict(model.hparams), buffer)
    buffer.seek(0)
    stored = torch.load(buffer, weights_only=True)
    again = build(checkpoint_config({"hyper_parameters": stored}))
    again.load_state_dict(model.state_dict())
    assert to_config(again) == to_config(model)
    assert torch.equal(again.segment(IMAGES[:1], 2, 1).samples, model.segment(IMAGES[:1], 2, 1).samples)


def test_fusion_is_the_models_own(v1):
    segmenter = MedSegDiffSegmenter(v1, image_size=(32, 32), fusion=MajorityFusion(), num_samples=4, num_steps=2)
    probability = segmenter.segment(IMAGES[:1]).probability
    assert set(probability.unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
