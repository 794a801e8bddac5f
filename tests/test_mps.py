"""No float64 on Apple's MPS while training, validating and segmenting; see fake_mps for what this cannot tell."""

from dataclasses import replace

import pytest
import torch
from helpers.fake_mps import MPS, fake_mps, to_mps
from helpers.small_networks import small

from diffmedseg.cli.predicting import on_device
from diffmedseg.models import (
    ClassConditionalUNet,
    DiffSegSegmenter,
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    MedSegDiffV2,
    ResidualUNet,
    SSNSegmenter,
    StochasticUNet,
    SupervisedSegmenter,
)
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.fusion import MajorityFusion, MeanFusion, STAPLEFusion

MODELS = {
    "V1": (MedSegDiffSegmenter, MedSegDiffV1, {}),
    "V2": (MedSegDiffSegmenter, MedSegDiffV2, {"prior_share": 0.5}),
    "lite": (MedSegDiffSegmenter, MedSegDiffLite, {"fusion": STAPLEFusion()}),
    "diffseg": (DiffSegSegmenter, ClassConditionalUNet, {"refinement": None}),
    "supervised": (SupervisedSegmenter, ResidualUNet, {}),
    "ssn": (SSNSegmenter, StochasticUNet, {}),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(2, 1, 32, 32, generator=generator) > 0.5).float()
    image = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    names = {"case": ["a", "b"], "id": ["a", "b"], "draw": [0, 1]}
    raters = {"raters": mask[:, None].repeat(1, 2, 1, 1, 1), "rater_valid": torch.ones(2, 2, dtype=torch.bool)}
    return {"image": image, "mask": mask, "label": torch.tensor([0, 1]), **raters}, names


def build(name):
    segmenter, network, options = MODELS[name]
    contours = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, num_samples=2, num_steps=2)
    settings = {"image_size": (32, 32), "num_samples": 2, "num_steps": 2, "val_num_samples": 2, "val_num_steps": 2}
    return segmenter(small(network), conformal=contours, **settings | options)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_and_a_segmentation(name):
    model, (tensors, names) = build(name), batch()
    expected = model.segment(tensors["image"], keys=names["case"])
    loss = model.training_loss({**tensors, **names})
    to_mps(model)
    on_mps = {**to_mps(tensors), **names}
    with fake_mps():
        found = model.training_loss(on_mps)
        found.backward()
        assert found.device == MPS
        torch.testing.assert_close(found.detach().cpu(), loss.detach())
        segmented = model.segment(on_mps["image"], keys=names["case"])
        assert segmented.mask.device == segmented.probability.device == MPS
        torch.testing.assert_close(segmented.probability.cpu(), expected.probability, atol=1e-5, rtol=1e-4)
        assert torch.equal(segmented.inner.cpu(), expected.inner)
        masks, samples = (to_mps(one.wrapped.clone()) for one in (segmented.mask, segmented.samples))
        model.val_score.update(replace(segmented, mask=masks, samples=samples, prior=None), on_mps)
        assert float(model.val_score.compute()) <= 1


@pytest.mark.parametrize("rule", [MeanFusion(), MajorityFusion(), STAPLEFusion()])
def test_weighted_fusion(rule):
    samples, weights = torch.rand(2, 4, 1, 8, 8), torch.tensor([1.0, 2.0, 0.0, 1.0])
    expected = rule(samples, weights)
    with fake_mps():
        found = rule(to_mps(samples), to_mps(weights))
    assert found.device == MPS
    torch.testing.assert_close(found.cpu(), expected)


def test_the_fake_refuses_what_mps_refuses():
    with fake_mps():
        values = to_mps(torch.rand(2))
        with pytest.raises(TypeError, match="does not support it"):
            values.double()
        with pytest.raises(RuntimeError, match="same device"):
            values + torch.rand(2)


def test_auto_picks_mps_where_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with fake_mps():
        assert on_device("auto").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert on_device("auto").type == "cpu"
