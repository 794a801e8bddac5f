import pytest
import torch
from helpers.small_networks import concrete_denoisers, lite_designs, small

from diffmedseg.models import (
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    ResidualUNet,
    SMPNetwork,
    SupervisedSegmenter,
)
from diffmedseg.models.finetuning import MisfitError, initialise

DENOISERS = [*concrete_denoisers(), *lite_designs()]
SMALL = "tu-test_efficientnet"  # a tiny encoder of timm
RGB, LESION = ("red", "green", "blue"), ("lesion",)


def segmenter(cls=MedSegDiffLite, channels=RGB, regions=LESION, seed=1, **options):
    """A segmenter with weights of its own seed."""
    network = small(cls, len(channels), len(regions))
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    settings = {"image_size": (32, 32), "channels": channels, "regions": regions} | options
    return MedSegDiffSegmenter(network, **settings).eval()


def predict(model, image, x_t):
    """The network's output and prior."""
    t = torch.full((len(x_t),), 500)
    with torch.no_grad():
        condition = model.denoiser.encode(image)
        return model.denoiser(x_t, t, condition, torch.ones_like(t)), condition.prior


def noise(channels, size=(32, 32), seed=0):
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cls", DENOISERS)
def test_the_same_shapes_give_the_same_output_to_the_bit(cls):
    source, model = segmenter(cls, seed=1), segmenter(cls, seed=2)
    found = initialise(model, source)
    image, x_t = noise(3), noise(model.denoiser.x_channels)
    assert torch.equal(predict(model, image, x_t)[0], predict(source, image, x_t)[0])
    assert (found.adapted, found.left) == ((), ())
    assert found.parameters["taken"] == sum(p.numel() for p in model.denoiser.parameters())


@pytest.mark.filterwarnings("ignore:.*takes the image channels")
@pytest.mark.parametrize("cls", DENOISERS)
def test_every_weight_whose_shape_follows_channels_and_regions_is_fitted(cls):
    """Each denoiser names all of them: none is left, and every other one is taken."""
    source = segmenter(cls)
    model = segmenter(cls, ("flair", "t1", "t1ce", "t2"), ("core", "whole"), seed=2)
    own = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    found = initialise(model, source)
    theirs = source.denoiser.state_dict()
    assert found.left == ()
    assert set(found.adapted) >= {key for key, value in own.items() if value.shape != theirs[key].shape}
    for key, value in model.denoiser.state_dict().items():
        assert torch.equal(value, theirs[key]) or key in found.adapted
    assert "new" not in str(found)


@pytest.mark.parametrize("cls", DENOISERS)
def test_channels_and_regions_are_matched_by_name(cls):
    """In another order, every prediction is the source's in that order."""
    names, regions = ("flair", "t1ce", "t2"), ("whole", "core")
    source = segmenter(cls, names, regions)
    model = segmenter(cls, ("t2", "FLAIR", "t1ce"), ("core", "whole"), seed=2)
    initialise(model, source)
    image, order, swap = noise(3), [2, 0, 1], [1, 0]
    inner = order if model.denoiser.x_channels == 3 else swap
    x_t = noise(model.denoiser.x_channels)
    output, prior = predict(source, image, x_t)
    own_output, own_prior = predict(model, image[:, order], x_t[:, inner])
    torch.testing.assert_close(own_output, output[:, inner], atol=1e-4, rtol=1e-4)
    if prior is not None:
        torch.testing.assert_close(own_prior, prior[:, swap], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cls", [MedSegDiffLite, MedSegDiffV1, ResidualUNet, *lite_designs()])
def test_what_is_new_changes_nothing_of_what_the_source_knows(cls):
    source = segmenter(cls, ("flair",), ("whole",))
    model = segmenter(cls, ("t1", "flair"), ("whole", "core"), seed=2)
    initialise(model, source)
    image, x_t = noise(2), noise(2, seed=1)
    expected, _ = predict(source, image[:, 1:], x_t[:, :1])
    torch.testing.assert_close(predict(model, image, x_t)[0][:, :1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*takes the image channels")
@pytest.mark.parametrize("cls", [MedSegDiffLite, MedSegDiffV1, ResidualUNet, *lite_designs()])
def test_unknown_channels_and_regions_keep_the_response(cls):
    """A grey image in place of three equal colours, or the reverse, and three equal regions in place of one."""
    grey, x_t = noise(1), noise(1, seed=1)
    for channels, regions, others in ((RGB, LESION, ("grey",)), (("grey",), ("a", "b", "c"), RGB)):
        source, model = segmenter(cls, channels, LESION), segmenter(cls, others, regions, seed=2)
        initialise(model, source)
        expected = predict(source, grey.expand(-1, len(channels), -1, -1), x_t)[0]
        output = predict(model, grey.expand(-1, len(others), -1, -1), x_t.expand(-1, len(regions), -1, -1))[0]
        torch.testing.assert_close(output, expected.expand_as(output), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cls", DENOISERS)
def test_another_image_size_takes_all(cls):
    source, model = segmenter(cls), segmenter(cls, seed=2, image_size=(96, 64))
    assert initialise(model, source).adapted == ()
    image, x_t = noise(3, (96, 64)), noise(model.denoiser.x_channels, (96, 64))
    assert torch.equal(predict(model, image, x_t)[0], predict(source, image, x_t)[0])


def test_another_network_is_refused_and_the_model_stays():
    source, model = segmenter(MedSegDiffV1), segmenter(MedSegDiffLite, seed=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MisfitError, match=r"of theirs is MedSegDiffV1 .* the MODEL whose network is MedSegDiffV1"):
        initialise(model, source, "theirs")
    assert model.initialisation is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_size_is_refused_with_the_setting_that_fits():
    larger = MedSegDiffSegmenter(MedSegDiffLite(3, 1, "base"), image_size=(32, 32))
    with pytest.raises(MisfitError, match=r"million.*its size and encoder \(--model.denoiser\)"):
        initialise(larger, segmenter())


def test_what_is_said_counts_right():
    """By hand: the stem of the image grows from 3 to 4 channels of 3 x 3, for each of 16 outputs."""
    model = segmenter(channels=(*RGB, "infrared"), seed=2)
    found = initialise(model, segmenter(), "an entry", "abc")
    total, stem = sum(p.numel() for p in model.denoiser.parameters()), 4 * 9 * 16
    assert found.adapted == ("condition.stem.weight",)
    assert found.parameters == {"taken": total - stem, "adapted": stem, "left": 0}
    for part in (f"{total - stem:,} of {total:,}", f"{stem:,} of {total:,}", "an entry", "by name; new: infrared"):
        assert part in str(found)
    assert found.as_dict()["sha256"] == "abc"
    assert model.initialisation == found.as_dict()


def test_what_does_not_fit_is_left_and_named():
    source, model = segmenter(), segmenter(seed=2)
    source.denoiser.deepest = torch.nn.Conv2d(7, 5, 1)
    before = model.denoiser.deepest.weight.clone()
    found = initialise(model, source)
    assert set(found.left) == {"deepest.weight", "deepest.bias"}
    assert torch.equal(model.denoiser.deepest.weight, before)
    assert "new (deepest.weight, deepest.bias)" in str(found)


def test_foreign_channels_are_doubted():
    with pytest.warns(UserWarning, match="an entry takes the image channels red, green, blue; this model takes ct"):
        initialise(segmenter(channels=("ct",), seed=2), segmenter(), "an entry")


def test_known_channels_are_not(recwarn):
    initialise(segmenter(channels=("red",), seed=2), segmenter())
    assert not recwarn


@pytest.mark.parametrize("std", [0.5, 0.25])
def test_another_normalisation_is_doubted(std, recwarn):
    networks = [
        MedSegDiffLite(3, 1, size="tiny", encoder=SMALL, encoder_mean=[0.5], encoder_std=[deviation])
        for deviation in (0.25, std)
    ]
    source, model = (
        MedSegDiffSegmenter(network, image_size=(32, 32), channels=RGB, regions=LESION) for network in networks
    )
    initialise(model, source)
    doubts = [str(warning.message) for warning in recwarn if "encoder_std" in str(warning.message)]
    assert len(doubts) == (std != 0.25)


def test_lite_starts_from_a_supervised_baseline_and_may_keep_it():
    """The baseline becomes the condition network; frozen, no step of training changes it."""
    torch.manual_seed(0)
    options = {"encoder": SMALL, "encoder_frozen_norm": True, "decoder_channels": [16, 8, 8, 8, 8]}
    source = SupervisedSegmenter(SMPNetwork(3, 1, **options), image_size=(32, 32), channels=RGB, regions=LESION)
    network = MedSegDiffLite(3, 1, **options, condition_frozen=True)
    model = MedSegDiffSegmenter(network, image_size=(32, 32), channels=RGB, regions=LESION)
    found = initialise(model, source)
    assert found.left
    assert all(name.startswith("condition.") for name in found.taken)
    theirs = {name: value.clone() for name, value in source.denoiser.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    stem = network.stem.weight.clone()
    model.train()
    for _ in range(2):  # at first the head is zero, and no gradient goes through it
        batch = {"image": noise(3).repeat(2, 1, 1, 1), "mask": torch.ones(2, 1, 32, 32), "draw": torch.arange(2)}
        model.training_loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    own = network.condition.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    assert not torch.equal(network.stem.weight, stem)
