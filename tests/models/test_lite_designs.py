"""The settings of MedSegDiff-Lite's step network: ways against visible patches, and the ideas of MedSegDiff-V1."""

import pytest
import torch
from small_networks import LITE_DESIGNS, small
from torch.utils.flop_counter import FlopCounterMode

from diffmedseg.configurable import to_config
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter
from diffmedseg.models.medsegdiff.denoiser_lite import CoarseEncoding
from diffmedseg.models.medsegdiff.denoiser_v1 import DynamicConditionalEncoding

IMAGE = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
T = torch.tensor([10, 300, 600, 900])
#: What adds nothing at first to a network that was trained without it.
ADDED = ["ff_parser", "dynamic_encoding", "samples", "both"]


def x_t(regions=1):
    return torch.randn(4, regions, 32, 48, generator=torch.Generator().manual_seed(1))


def new(name, regions=1):
    torch.manual_seed(0)
    return MedSegDiffLite(3, regions, "tiny", **LITE_DESIGNS[name]).eval()


def random(name, regions=1):
    network = new(name, regions)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@torch.no_grad()
def predict(network, regions=1):
    return network(x_t(regions), T, network.encode(IMAGE))


@pytest.mark.parametrize("name", LITE_DESIGNS)
def test_every_design_starts_as_the_prior(name):
    network = new(name, 2)
    prior = network.encode(IMAGE).prior.repeat_interleave(2, 0)
    torch.testing.assert_close(predict(network, 2), prior)


@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_to_a_trained_network_changes_nothing_at_first(name):
    trained, network = small(MedSegDiffLite, 3, 2), new(name, 2)
    missing, unexpected = network.load_state_dict(trained.state_dict(), strict=False)
    assert missing
    assert not unexpected
    torch.testing.assert_close(predict(network, 2), predict(trained, 2))


def test_weights_and_configs_from_before_mean_what_they_meant():
    """Without any of these settings there is no new weight, and all of them are off."""
    network = small(MedSegDiffLite)
    assert not [key for key in network.state_dict() if key.startswith(("encoding", "covariance", "base", "presence"))]
    recorded = to_config(network)["init_args"]
    off = {"patches": "apart", "ff_parser": False, "dynamic_encoding": False, "prior": "mean", "presence": False}
    assert {name: recorded[name] for name in off} == off
    named = MedSegDiffLite(3, 1, "tiny", **off).eval()
    named.load_state_dict(network.state_dict())
    assert torch.equal(predict(named), predict(network))


@pytest.mark.parametrize("name", LITE_DESIGNS)
def test_what_depends_on_the_image_alone_is_computed_once(name, monkeypatch):
    network, runs = random(name), []
    network.condition.register_forward_hook(lambda *_: runs.append("condition"))
    network.condition.bottleneck.register_forward_hook(lambda *_: runs.append("condition"))
    network.coarse.register_forward_hook(lambda *_: runs.append("coarse"))
    image_part = CoarseEncoding.image_part
    monkeypatch.setattr(CoarseEncoding, "image_part", lambda self, m: (runs.append("encoding"), image_part(self, m))[1])
    model = MedSegDiffSegmenter(network, image_size=(32, 48))
    model.segment(IMAGE, num_samples=3, num_steps=4)
    assert {"condition", "coarse"} <= set(runs)
    assert len(runs) == len(set(runs))


@pytest.mark.parametrize("name", LITE_DESIGNS)
def test_samples_do_not_depend_on_the_images_beside_them(name):
    model = MedSegDiffSegmenter(random(name), image_size=(32, 48), num_steps=3).eval()
    together = model.segment(IMAGE, num_samples=3, keys=["a", "b"]).samples
    alone = [model.segment(IMAGE[i : i + 1], num_samples=3, keys=[key]).samples for i, key in enumerate("ab")]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)
    first = model.segment(IMAGE, num_samples=1, keys=["a", "b"]).samples
    torch.testing.assert_close(together[:, :1], first, atol=1e-4, rtol=0)
    assert together.std(1).max() > 1e-3


@pytest.mark.parametrize("name", LITE_DESIGNS)
def test_half_precision_is_close(name):
    network = random(name)
    exact = predict(network)
    with torch.autocast("cpu", torch.bfloat16):
        half = predict(network).float()
    scale = exact.std()
    assert scale > 0
    assert (half - exact).abs().mean() < 0.05 * scale


@pytest.mark.parametrize("name", LITE_DESIGNS)
def test_the_maps_that_tell_unfamiliar_images_are_the_condition_networks(name):
    network = random(name)
    with torch.no_grad():
        expected = network.condition.image_maps(IMAGE)
        assert all(torch.equal(a, b) for a, b in zip(network.image_maps(IMAGE), expected, strict=True))


@pytest.mark.parametrize("name", LITE_DESIGNS)
def test_a_design_costs_little(name):
    image, counted = torch.zeros(1, 3, 128, 128), []
    for network in (MedSegDiffLite(3, 1, "tiny"), new(name)):
        with torch.no_grad():
            condition = network.encode(image)
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, 1, 128, 128), T[:1], condition)
        counted.append(counter.get_total_flops())
    assert counted[0] != counted[1]
    assert counted[1] < 1.25 * counted[0]


@pytest.mark.parametrize("ff_parser", [False, True])
def test_the_encoding_is_the_one_of_v1(ff_parser):
    """What is computed of the image beforehand is part of the same product."""
    torch.manual_seed(0)
    coarse, v1 = CoarseEncoding(8, True, ff_parser), DynamicConditionalEncoding(8, True, ff_parser)
    torch.nn.init.eye_(coarse.out.weight[:, :, 0, 0])
    if ff_parser:
        torch.nn.init.normal_(coarse.filter.weight)
    v1.load_state_dict({key: value for key, value in coarse.state_dict().items() if key.startswith("filter")})
    m_i, m_x = torch.randn(2, 8, 6, 10), torch.randn(2, 8, 6, 10)
    torch.testing.assert_close(coarse(coarse.image_part(m_i), m_x), m_x + v1(m_i, m_x))


def test_an_unknown_way_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'interpolate'. Did you mean interpolated"):
        MedSegDiffLite(3, 1, patches="interpolate")
