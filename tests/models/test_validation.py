"""The score that chooses checkpoints, and the warning of a model that finds nothing."""

import logging
from functools import partial

import pytest
import torch
from helpers.small_networks import small
from helpers.tiny_run import tiny_data, tiny_model, tiny_trainer

from diffmedseg.metrics import generalized_energy_distance
from diffmedseg.models import (
    MedSegDiffLite,
    MedSegDiffSegmenter,
    ResidualUNet,
    SSNSegmenter,
    StochasticUNet,
    SupervisedSegmenter,
)
from diffmedseg.models.validation import ValidationScore
from diffmedseg.segmentation import Segmentation


def lesions(*sizes):
    """Masks (N, 1, 16, 16) with squares of these sizes; 0 for an empty one."""
    masks = torch.zeros(len(sizes), 1, 16, 16)
    for mask, size in zip(masks, sizes, strict=True):
        mask[:, 4 : 4 + size, 4 : 4 + size] = 1
    return masks


def batch_of(*raters):
    """A batch of images with the masks of these raters, (N, 1, H, W) each."""
    masks = torch.stack(raters, 1)
    reference = (2 * masks.sum(1) >= len(raters)).float()
    valid = torch.ones(masks.shape[:2], dtype=torch.bool)
    return {"mask": reference, "raters": masks, "rater_valid": valid, "case": [f"c{i}" for i in range(len(masks))]}


def answer(*samples, prior=None):
    """A segmentation with these samples, (N, 1, H, W) each, fused by their mean."""
    drawn = torch.stack(samples, 1)
    mean = drawn.mean(1)
    return Segmentation(drawn, mean, mean, mean > 0.5, prior=prior)


def score(segmentation, batch):
    metric = ValidationScore()
    metric.update(segmentation, batch)
    return float(metric.compute())


NOTHING = lesions(0, 0, 0, 0)


def test_with_one_rater_an_empty_answer_has_the_least_score():
    """Three of four references are empty: its mean Dice would be 0.75, and that of one false alarm 0.45."""
    truth = lesions(6, 0, 0, 0)
    batch = batch_of(truth)
    assert score(answer(NOTHING), batch) == 0
    assert 0 < score(answer(lesions(4, 2, 0, 0)), batch) < score(answer(lesions(4, 0, 0, 0)), batch) < 1
    assert score(answer(truth), batch) == 1


@pytest.mark.parametrize("size", [1, 2, 5])
def test_with_several_raters_it_is_the_energy_distance(size):
    raters = lesions(6, 4, 0, 0), lesions(0, 4, 0, 3), lesions(0, 5, 0, 0)
    batch, drawn = batch_of(*raters), [lesions(5, 4, 2, 0), *[lesions(0, 5, 0, 2)] * (size - 1)]
    energies = [
        generalized_energy_distance(torch.stack(drawn, 1)[i, :, 0] > 0.5, batch["raters"][i, :, 0] > 0.5)
        for i in range(4)
    ]
    expected = [float(one.unbiased if size > 1 else one.biased) for one in energies]
    assert score(answer(*drawn), batch) == pytest.approx(1 - sum(expected) / 4, abs=1e-6)
    assert score(answer(NOTHING, NOTHING), batch) < score(answer(raters[0], raters[1], raters[2]), batch)


def test_samples_of_another_size_than_the_images():
    raters = lesions(8, 4), lesions(8, 6)
    small = [rater[..., ::2, ::2] for rater in raters]
    full = answer(*raters)
    found = Segmentation(torch.stack(small, 1), full.probability, full.uncertainty, full.mask)
    assert score(found, batch_of(*raters)) > 0.8


def test_batches_pool_and_are_forgotten():
    raters = lesions(6, 4, 0, 0), lesions(0, 4, 0, 3)
    batch, found = batch_of(*raters), answer(lesions(5, 4, 2, 0), lesions(0, 5, 0, 2))
    metric = ValidationScore()
    for _ in range(2):
        metric.reset()
        for i in range(4):
            part = {name: value[i : i + 1] for name, value in batch.items()}
            metric.update(answer(*found.samples[i : i + 1].unbind(1)), part)
        assert float(metric.compute()) == pytest.approx(score(found, batch), abs=1e-6)


def test_what_is_empty_in_every_image_is_named():
    truth, full = batch_of(lesions(6, 0, 0, 0)), lesions(6, 0, 0, 0)

    def found(segmentation, batch=truth):
        metric = ValidationScore()
        metric.update(segmentation, batch)
        return metric.find_empty_answers()

    assert found(answer(full, prior=full)) == []
    assert found(answer(NOTHING), batch_of(NOTHING)) == []  # nothing to find
    [mask] = found(answer(NOTHING, prior=full))
    assert mask.startswith("The fused mask is empty in 4 validation images, which is all of them. Raters outlined")
    [prior] = found(answer(full, prior=0.4 * full))
    assert prior.startswith("The condition network's own mask is empty in 4 validation images")
    assert len(found(answer(NOTHING, prior=NOTHING))) == 2


_NOTHING = {"threshold": 1 - 1e-6, "image_size": (16, 16)}  # it finds nothing


@pytest.mark.parametrize(
    ("build", "dice"),
    [
        (lambda: tiny_model(**_NOTHING), True),
        (lambda: tiny_model(**_NOTHING, dice_over="batch"), False),  # it is taken already
        (lambda: MedSegDiffSegmenter(small(partial(MedSegDiffLite, presence=True)), **_NOTHING), False),  # sees none
        (lambda: SSNSegmenter(small(StochasticUNet), **_NOTHING), False),
        (lambda: SupervisedSegmenter(small(ResidualUNet), **_NOTHING), True),
    ],
)
def test_a_validation_logs_the_score_and_warns(tmp_path, caplog, build, dice):
    """The remedy names the Dice term where an empty answer can win it."""
    caplog.set_level(logging.WARNING, logger="diffmedseg.models.training")
    model = build()
    [logged] = tiny_trainer(tmp_path, callbacks=[]).validate(model, tiny_data(), verbose=False)
    assert logged["val/score"] <= 1
    assert "The fused mask is empty in 4 validation images" in caplog.text
    assert ("--model.dice_over=batch" in caplog.text) == dice
