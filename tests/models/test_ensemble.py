"""Several models that segment together."""

import pytest
import torch
from helpers.dark_disc import BrightSegmenter, dark_segmenter
from helpers.small_networks import small

from diffmedseg.familiarity import Familiarity, JointFamiliarity
from diffmedseg.models import Ensemble, MedSegDiffLite, MedSegDiffSegmenter, ResidualUNet, SupervisedSegmenter
from diffmedseg.postprocessing.calibration import IsotonicCalibration, TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.fusion import MajorityFusion, MeanFusion
from diffmedseg.postprocessing.refinement import LargestComponent
from diffmedseg.prediction.run import fingerprint

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
KEYS = ["a", "b", "c"]


def lite(**options):
    return MedSegDiffSegmenter(
        small(MedSegDiffLite), image_size=(32, 32), num_samples=4, num_steps=2, prior_share=0.5, **options
    ).eval()


def mixed():
    """A chain with the vote of a prior, a network without noise, and a rule of its own."""
    direct = SupervisedSegmenter(small(ResidualUNet), image_size=(32, 32), threshold=0.4).eval()
    return {"lite": lite(seed=1), "direct": direct, "dark": dark_segmenter(seed=2, fusion=MajorityFusion())}


def test_pooled_samples_are_the_members_own_bit_for_bit():
    members = mixed()
    pooled = Ensemble(members).segment(IMAGES, 8, keys=KEYS).samples
    for i, model in enumerate(members.values()):
        assert torch.equal(pooled[:, i::3], model.draw(IMAGES, KEYS, range(8)[i::3]).samples)
        own = model.segment(IMAGES, 8, keys=KEYS).samples  # convolutions differ in their last digits with the batch
        torch.testing.assert_close(pooled[:, i::3], own[:, i::3], atol=1e-5, rtol=0)


def test_the_probability_is_the_mean_of_what_members_make_of_their_samples():
    members = mixed()
    result = Ensemble(members).segment(IMAGES, 8, keys=KEYS)
    own = []
    for i, model in enumerate(members.values()):
        drawn = model.draw(IMAGES, KEYS, range(8)[i::3])
        own.append(model.fuse(drawn, (32, 32), IMAGES, KEYS).probability)
    torch.testing.assert_close(result.probability, torch.stack(own).mean(0), atol=1e-7, rtol=0)
    assert torch.equal(result.mask, result.probability > (0.5 + 0.4 + 0.5) / 3)
    assert result.prior is None  # two members have none


@pytest.mark.parametrize("tta", ["none", "flips"])
def test_an_ensemble_of_one_is_the_model(tta):
    model = lite()
    alone, together = (one.segment(IMAGES, 5, keys=KEYS, tta=tta) for one in (model, Ensemble({"a": model})))
    for name in ("samples", "probability", "uncertainty", "mask", "prior"):
        assert torch.equal(getattr(alone, name), getattr(together, name)), name


def test_flips_and_members_are_dealt_alike():
    members = {"a": dark_segmenter(seed=1), "b": dark_segmenter(seed=2)}
    ensemble = Ensemble(members)
    result = ensemble.segment(IMAGES, keys=KEYS, tta="flips")
    assert result.samples.shape[1] == 8
    for i, model in enumerate(members.values()):
        own = model.draw(IMAGES, KEYS, range(8)[i::2], tta="flips").samples
        assert torch.equal(result.samples[:, i::2], own)
    with pytest.raises(ValueError, match="num_samples is 7, and there are 8 members and views"):
        ensemble.segment(IMAGES, 7, tta="flips")
    alone = [ensemble.segment(IMAGES[i : i + 1], keys=KEYS[i : i + 1], tta="flips").samples for i in range(3)]
    assert torch.equal(torch.cat(alone), result.samples)


def test_each_member_works_on_its_own_grid():
    members = {"small": dark_segmenter(image_size=(16, 24)), "large": dark_segmenter(image_size=(32, 16))}
    ensemble = Ensemble(members)
    result = ensemble.segment(IMAGES, 4, keys=KEYS)
    assert ensemble.image_size == (32, 24)
    assert result.samples.shape == (3, 4, 1, 32, 24)
    assert [part.samples.shape[-2:] for part in ensemble.sample(IMAGES, 4).members] == [(16, 24), (32, 16)]
    assert result.probability.shape == (3, 1, 32, 32)


def test_a_test_scores_what_is_predicted():
    """Resizing the mean is the mean of what is resized."""
    ensemble = Ensemble(mixed() | {"other": dark_segmenter(seed=3)})
    large = torch.nn.functional.interpolate(IMAGES, (64, 48), mode="bilinear")
    drawn, keys = ensemble.sample(large, 8, keys=KEYS), KEYS
    predicted = ensemble.fuse(drawn, (64, 48), large, keys)
    tested = ensemble.at_size(ensemble.fuse(drawn, (32, 32), IMAGES, keys), (64, 48))
    torch.testing.assert_close(tested.probability, predicted.probability, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "calibration", [TemperatureScaling(3.0), IsotonicCalibration([0, 0.4, 0.6, 1], [0, 0.2, 0.2, 1])]
)
def test_calibration_of_members_is_left_out_and_their_decisions_stay(calibration):
    threshold = float(calibration(torch.tensor([0.45]))[0])
    conformal = Conformal([0.9], [0.1], [1.5], 0.95, 0.9, 20, 3, 1)
    model = dark_segmenter(calibration=calibration, threshold=threshold, conformal=conformal)
    own, found = model.segment(IMAGES, keys=KEYS), Ensemble({"a": model}).segment(IMAGES, keys=KEYS)
    assert torch.equal(found.probability, own.uncalibrated.probability)
    assert (found.mask != own.mask).float().mean() < 1e-3
    assert found.inner is found.outer is found.uncalibrated is None
    assert own.inner is not None


def test_refinements_are_those_of_the_members():
    refined = dark_segmenter(refinement=LargestComponent())
    result = Ensemble({"a": refined, "b": dark_segmenter(seed=1)}).segment(IMAGES, 4, keys=KEYS)
    assert not torch.equal(result.unrefined, result.probability)
    plain = Ensemble({"a": dark_segmenter(), "b": dark_segmenter(seed=1)}).segment(IMAGES, 4, keys=KEYS)
    assert torch.equal(result.unrefined, plain.probability)


def test_another_rule_takes_all_samples():
    ensemble = Ensemble(mixed())
    drawn = ensemble.sample(IMAGES, 6, keys=KEYS)
    found = ensemble.fuse_by(MeanFusion(), drawn, (32, 32)).probability
    torch.testing.assert_close(found, drawn.samples.mean(1))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"channels": ("blue", "green", "red")}, r"channels are red/green/blue and blue/green/red"),
        ({"regions": ("disc",)}, "regions are lesion and disc"),
        ({"regions": ("disc", "cup")}, "regions are lesion and disc/cup"),
        ({"cropped": True}, "cropped.* are False and True"),
        ({"value_range": (0, 9)}, "black and white are None and 0/9"),
    ],
)
def test_members_that_disagree_are_refused(other, message):
    with pytest.raises(ValueError, match=rf"a and b cannot form an ensemble: their .*{message}|a and b .*{message}"):
        Ensemble({"a": dark_segmenter(), "b": dark_segmenter(**other)})


def test_familiarity_is_that_of_all_members_that_have_one():
    torch.manual_seed(0)
    parts = [Familiarity.fit(torch.randn(40, 6), [str(i) for i in range(40)]) for _ in range(2)]
    joint, features = JointFamiliarity(parts), torch.randn(5, 12)
    own = torch.stack([part(one) for part, one in zip(parts, features.split(6, 1), strict=True)])
    torch.testing.assert_close(joint(features), (2 * own.mean(0)).clamp(max=1))
    assert joint.level == pytest.approx(2 / 41)
    assert joint(torch.full((1, 12), 50.0)) <= joint.level
    members = {"lite": lite(), "dark": dark_segmenter()}
    members["lite"].familiarity = Familiarity(20, members["lite"].features(IMAGES).shape[1])
    result = Ensemble(members).segment(IMAGES, keys=KEYS)
    assert result.familiarity.shape == (3,)


def test_a_fingerprint_tells_ensembles_apart():
    a, b, c = dark_segmenter(seed=1), dark_segmenter(seed=2), dark_segmenter(cls=BrightSegmenter)
    prints = [fingerprint(Ensemble(dict(enumerate(models)))) for models in ([a], [a, b], [b, a], [a, c])]
    assert len(set(prints)) == 4
    assert fingerprint(Ensemble({"x": a, "y": b})) == prints[1]
