"""With a denoiser that knows the lesion, the difference has to be the lesion."""

import numpy as np
import pytest
import torch
import yaml
from helpers.tiny_run import EXPERIMENTS

from diffmedseg.diffusion import NoiseProcess
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.models import Condition, Denoiser, DiffSegSegmenter
from diffmedseg.models.diffseg.decision import FixedLevel, MultipleOfMean, Otsu, to_evidence, to_soft_mask
from diffmedseg.models.diffseg.difference import (
    CounterfactualDifference,
    NoisePredictionDifference,
    PartialDenoisingDifference,
    ReleasedDifference,
)
from diffmedseg.postprocessing.otsu import otsu_level

SKIN, LESION = 0.5, -0.4


def lesions(size=32):
    """Two discs, (2, 1, H, W)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([(y - 14) ** 2 + (x - 12) ** 2 < 49, (y - 20) ** 2 + (x - 20) ** 2 < 25])[:, None]


def images(mask=None):
    mask = lesions() if mask is None else mask
    return torch.where(mask, LESION, SKIN).expand(-1, 3, -1, -1).clone()


class LabelOracle(Denoiser):
    """Knows both images: that with the lesion and that without, whatever the noise."""

    def __init__(self, process, mask, same=False):
        super().__init__(3, 1)
        self.process, self.mask, self.same = process, mask, same

    def encode(self, image):
        return Condition(())

    def forward(self, x_t, t, condition, label=None):
        diseased = images(self.mask).repeat_interleave(len(x_t) // len(self.mask), 0)
        healthy = torch.full_like(diseased, SKIN)
        share = torch.tensor([0.0, 1.0, 0.5])[label].reshape(-1, 1, 1, 1)
        x_0 = diseased if self.same else healthy + share * (diseased - healthy)
        if self.process.prediction == "x_0":
            return 2 * torch.atanh(x_0)
        signal, noise = self.process.signal_and_noise(t)
        eps = (x_t - signal * x_0) / noise
        return eps if self.process.prediction == "epsilon" else signal * eps - noise * x_0


def oracle(prediction="x_0", mask=None, same=False, **options):
    process = NoiseProcess(schedule="linear", input_scale=1.0, prediction=prediction)
    network = LabelOracle(process, lesions() if mask is None else mask, same)
    settings = {"image_size": (32, 32), "num_samples": 3, "num_steps": 2, "blur": 0.0}
    return DiffSegSegmenter(network, process, **settings | options)


def dice(a, b):
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("prediction", ["x_0", "v", "epsilon"])
@pytest.mark.parametrize(
    "difference",
    [
        *(NoisePredictionDifference(t, t) for t in (0, 50, 199, 500, 900)),
        NoisePredictionDifference(),
        CounterfactualDifference(),
        PartialDenoisingDifference(400),
        PartialDenoisingDifference(900, guidance=3.0),
    ],
    ids=lambda d: str(vars(d)),
)
def test_a_label_aware_oracle_gives_the_mask_at_every_level(prediction, difference):
    segmenter = oracle(prediction, difference=difference)
    result = segmenter.segment(images(), keys=["a", "b"])
    assert dice(result.mask, lesions()) > 0.99
    assert all(dice(sample > 0.5, lesions()) > 0.99 for sample in result.samples.unbind(1))


def test_for_the_oracle_the_map_does_not_depend_on_the_noise():
    """The noise is shared by both labels, and cancels."""
    segmenter = oracle("epsilon")
    generators = [[keyed_generator(key, s) for s in range(3)] for key in "ab"]
    maps = segmenter.difference_maps(images(), generators, 2)
    assert maps.std(1).max() < 1e-4
    assert maps.amax() == pytest.approx(SKIN - LESION, abs=1e-4)


@pytest.mark.parametrize("decision", [Otsu(), FixedLevel(), MultipleOfMean()])
def test_identical_branches_give_an_empty_mask(decision):
    result = oracle(same=True, decision=decision).segment(images(), keys=["a", "b"])
    assert not result.mask.any()
    assert not result.binary_samples.any()
    assert torch.isfinite(result.probability).all()


def test_under_autocast_maps_are_full_precision():
    with torch.autocast("cpu", torch.bfloat16):
        found = oracle(blur=1.0).sample(images(), keys=["a", "b"])
    assert found.samples.dtype == torch.float32


def test_in_the_air_around_a_head_nothing_is_found():
    """However large the difference there, of networks that never saw anything in it to denoise."""
    image, lesion = images()[:1], lesions()[0]
    air = torch.ones(1, 32, 32, dtype=torch.bool)
    air[:, 4:28, 4:28] = False
    image[0][:, air[0]] = -1
    maps = lesion + 3 * air * torch.rand(1, 3, 32, 32)
    found = {ignored: oracle(ignore_background=ignored).soft_masks(maps, image) > 0.5 for ignored in (True, False)}
    assert torch.equal(found[True], lesion.expand_as(maps))
    assert found[False][air.expand_as(maps)].any()
    model = oracle()
    assert model.contrast(maps, image).max() == 1
    for nothing in (
        model.soft_masks(maps, torch.full_like(image, -1)),
        model.contrast(maps, torch.full_like(image, -1)),
    ):
        assert not nothing.any()


def test_what_shows_too_little_contrast_is_nothing():
    contrast = SKIN - LESION
    found = {least: oracle(least_contrast=least).segment(images(), keys=["a", "b"]).mask.any() for least in (0.5, 1.5)}
    assert found == {0.5: True, 1.5: False}
    assert 0.5 < contrast < 1.5


def test_polarity_and_channels():
    """A lesion that is darker in all channels, seen by one of them, the other way round, and either way."""
    for options, expected in (
        ({"polarity": "darker"}, True),
        ({"polarity": "either"}, True),
        ({"channel_weights": {"green": 1.0}}, True),
        ({"polarity": "brighter", "channel_weights": {"red": -1.0}}, True),
        ({"polarity": "brighter"}, False),
    ):
        mask = oracle(**options).segment(images(), keys=["a", "b"]).mask
        assert (dice(mask, lesions()) > 0.99) == expected, options


def test_only_the_outermost_of_nested_regions_is_found():
    network = LabelOracle(NoiseProcess(), lesions())
    network.mask_channels = 3
    model = DiffSegSegmenter(network, regions=("whole", "core", "enhancing"), nested=True)
    assert model.regions == ("whole",)
    with pytest.raises(ValueError, match=r"finds one region.*whole, core, enhancing"):
        DiffSegSegmenter(network, regions=("whole", "core", "enhancing"), nested=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_weights": {"flair": 1.0}}, "channels are .'red', 'green', 'blue'"),
        ({"channel_weights": {"red": 0.0}}, "channel_weights"),
        ({"noise_range": (500, 100)}, "noise_range"),
        ({"percentiles": (50, 50)}, "percentiles"),
        ({"supervision": "pairs", "prediction": "epsilon"}, "predicts x_0, not epsilon"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        oracle(**options)


def test_a_network_that_gives_nan_is_not_one_that_finds_nothing():
    model = oracle()
    model.denoiser.mask = lesions()
    model.denoiser.forward = lambda x_t, t, condition, label=None: x_t * torch.nan
    assert model.segment(images(), keys=["a", "b"]).samples.isnan().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"difference": NoisePredictionDifference(0, 1000)},
            "noise level is 1000; the highest level of the process is 999",
        ),
        ({"difference": CounterfactualDifference(100, 1000)}, "noise level is 1000"),
        ({"difference": PartialDenoisingDifference(1500)}, "noise level is 1500"),
        ({"difference": PartialDenoisingDifference(400, 2.0), "label_dropout": 0}, "label_dropout above 0"),
    ],
)
def test_differences_that_the_process_or_training_does_not_allow(options, message):
    with pytest.raises(ValueError, match=message):
        oracle(**options)


def test_the_released_difference_takes_colours_alone():
    with pytest.raises(ValueError, match="These images have 4 channels"):
        ReleasedDifference().check(NoiseProcess(), 4, False)


def test_the_decision_level_becomes_a_half():
    evidence = torch.rand(5, 8, 8)
    evidence[:, 0, 0] = 1
    level = torch.tensor([0.1, 0.3, 0.5, 0.9, 1.0])
    soft = to_soft_mask(evidence, level)
    assert torch.equal(soft > 0.5, evidence > level[:, None, None])
    order = evidence.flatten(1).argsort(1)
    assert (soft.flatten(1).gather(1, order).diff(dim=1) >= 0).all()
    assert soft.min() >= 0
    assert soft.max() <= 1


def test_evidence_is_normalised_map_by_map():
    maps = torch.randn(4, 16, 16) * torch.tensor([1e-3, 1, 10, 0])[:, None, None] + 5
    evidence = to_evidence(maps, 1e-4, (0, 100))
    assert torch.equal(evidence.amax((1, 2)), torch.tensor([1.0, 1, 1, 0]))
    torch.testing.assert_close(evidence, to_evidence(3 * maps - 7, 1e-4, (0, 100)), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("settings", ["diffseg+bright"])
def test_what_is_small_in_its_images_is_found(settings):
    """Nodules and the ends of tumours fill less than a percent of an image."""
    options = yaml.safe_load((EXPERIMENTS / "model" / f"{settings}.yaml").read_text())["model"]["init_args"]
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = (y - 30) ** 2 + (x - 33) ** 2 < 9
    maps = mask + torch.randn(20, 64, 64, generator=torch.Generator().manual_seed(0)) / 32
    for percentiles, found in ((options["percentiles"], True), ((1, 99), False)):
        evidence = to_evidence(maps, 1e-4, percentiles)
        masks = to_soft_mask(evidence, Otsu()(evidence)) > 0.5
        assert all((dice(one, mask) > 0.95) == found for one in masks)


def test_otsu_is_the_best_of_all_levels():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.3, 0.05, 700), rng.normal(0.7, 0.08, 300)]).clip(0, 1)

    def between(level):
        low, high = values[values <= level], values[values > level]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    found = float(otsu_level(torch.from_numpy(values)[None]))
    best = max(np.linspace(0.2, 0.8, 601), key=between)
    assert between(found) > 0.999 * between(best)


def released(healthy, diseased):
    """The released code's run.py, in numpy, from the two networks' residuals (H, W, 3) in [-1, 1]."""
    grey = [sum(w * (127.5 * (r[..., c] + 1)).astype(int) for c, w in enumerate((0.299, 0.587, 0.114)))
            for r in (healthy, diseased)]  # fmt: skip
    g_h, g_u = (g - g.min() for g in grey)
    d = g_h - 1.5 * g_u
    d = 255 * (d - d.min()) / (d.max() - d.min())
    return np.clip(1.2 * d, 0, 255) < 189


def test_parity_with_the_released_post_processing():
    rng = np.random.default_rng(1)
    smooth = np.kron(rng.normal(0, 0.2, (2, 8, 8, 3)), np.ones((1, 4, 4, 1))) + rng.normal(0, 0.02, (2, 32, 32, 3))
    healthy, diseased = smooth.clip(-1, 1)
    residuals = [torch.from_numpy(r).permute(2, 0, 1)[None] for r in (healthy, diseased)]
    rule = ReleasedDifference()
    g_h, g_u = (rule.grey_residual(r) for r in residuals)
    evidence = to_evidence((1.5 * g_u - g_h)[:, 0], 0, (0, 100))
    mask = to_soft_mask(evidence, FixedLevel(1 - 189 / (1.2 * 255))(evidence))[0] > 0.5
    expected = released(healthy, diseased)
    assert 0.1 < expected.mean() < 0.9
    assert (mask.numpy() == expected).mean() > 0.999  # equality at the very level is decided by rounding


def test_the_released_difference_is_that_of_the_residuals():
    process = NoiseProcess(schedule="linear", input_scale=1.0)
    seen = {}

    def predict(x_t, t, label):
        assert (t == 0).all()
        seen.update({value: x_t[label == value] for value in (0, 1)})
        x_0 = torch.full_like(x_t, SKIN)
        x_0[label == 1] = images()
        return x_0

    found = ReleasedDifference()(predict, process, images(), [keyed_generator(k) for k in "ab"], 4)
    assert torch.equal(seen[0], seen[1])
    rule = ReleasedDifference()
    expected = 1.5 * rule.grey_residual(seen[1] - images()) - rule.grey_residual(seen[0] - SKIN)
    assert torch.equal(found, expected)
    assert found.shape == (2, 1, 32, 32)


def test_presence_is_the_contrast_that_is_compared():
    model = oracle("epsilon")
    score = model.presence(images(), ["a", "b"])[0].item()
    assert score == pytest.approx(SKIN - LESION, abs=1e-3)
    for least, found in ((score * 0.99, True), (score * 1.01, False)):
        model.least_contrast = least
        assert bool(model.segment(images(), keys=["a", "b"]).mask[0].any()) == found
