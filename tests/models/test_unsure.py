"""Pixels whose mask nobody is sure of change no loss and no gradient."""

from functools import partial

import pytest
import torch
from helpers.small_networks import small
from helpers.tiny_run import tiny_trainer
from torch.utils.data import DataLoader

from diffmedseg.diffusion import DiffusionLoss, NoiseProcess
from diffmedseg.models import (
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    ResidualUNet,
    SSNSegmenter,
    StochasticUNet,
    SupervisedSegmenter,
)
from diffmedseg.models.targets import training_targets

DICE = {"loss": DiffusionLoss(mse=1, bce=1, dice=1), "noise_levels": 2}
NOISE = {"process": NoiseProcess(prediction="epsilon"), "loss": DiffusionLoss(mse=1, bce=0)}
MODELS = {
    "lite": lambda: MedSegDiffSegmenter(small(MedSegDiffLite), image_size=(32, 32), **DICE),
    "lite, Dice over the batch": lambda: MedSegDiffSegmenter(
        small(MedSegDiffLite), image_size=(32, 32), dice_over="batch", **DICE
    ),
    "lite, energy": lambda: MedSegDiffSegmenter(
        small(MedSegDiffLite), image_size=(32, 32), energy_weight=1.0, energy_steps=1
    ),
    "lite, presence": lambda: MedSegDiffSegmenter(small(partial(MedSegDiffLite, presence=True)), image_size=(32, 32)),
    "lite, sampled prior": lambda: MedSegDiffSegmenter(
        small(partial(MedSegDiffLite, prior="samples")), image_size=(32, 32), raters="all"
    ),
    "V1": lambda: MedSegDiffSegmenter(small(MedSegDiffV1), image_size=(32, 32)),
    "V1, noise": lambda: MedSegDiffSegmenter(small(MedSegDiffV1), image_size=(32, 32), **NOISE),
    "supervised": lambda: SupervisedSegmenter(small(ResidualUNet), image_size=(32, 32)),
    "SSN, energy": lambda: SSNSegmenter(
        small(StochasticUNet), image_size=(32, 32), mc_samples=2, energy_weight=1.0, raters="all"
    ),
}


def some_batch(unsure):
    torch.manual_seed(1)
    raters = (torch.rand(3, 2, 1, 32, 32) > 0.7).float()
    raters[2] = 0  # of the last image nothing is outlined where it is sure
    return {
        "image": torch.rand(3, 3, 32, 32) * 2 - 1, "mask": raters[:, 0], "raters": raters, "unsure": unsure,
        "rater_valid": torch.ones(3, 2, dtype=torch.bool), "draw": [0, 1, 2],
    }  # fmt: skip


def corner():
    unsure = torch.zeros(3, 1, 32, 32)
    unsure[..., :16, :20] = 1
    return unsure


def outcome(model, batch):
    model.zero_grad()
    loss = model.training_loss(batch)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", MODELS)
def test_the_mask_under_unsure_pixels_changes_no_loss_and_no_gradient(name):
    model = MODELS[name]().train()
    batch = some_batch(corner())
    loss, gradients = outcome(model, dict(batch))
    doubted = batch["unsure"] > 0
    for value in (0.0, 1.0):
        changed = torch.where(doubted[:, None], torch.full_like(batch["raters"], value), batch["raters"])
        assert not torch.equal(changed, batch["raters"])
        again, others = outcome(model, batch | {"raters": changed, "mask": changed[:, 0]})
        assert torch.equal(loss, again)
        assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    elsewhere = torch.where(doubted[:, None], batch["raters"], 1 - batch["raters"])
    assert not torch.equal(loss, outcome(model, batch | {"raters": elsewhere, "mask": elsewhere[:, 0]})[0])


@pytest.mark.parametrize("name", MODELS)
def test_masks_that_are_sure_everywhere_teach_what_masks_without_a_word_teach(name):
    model = MODELS[name]().train()
    batch = some_batch(torch.zeros(3, 1, 32, 32))
    loss, gradients = outcome(model, dict(batch))
    del batch["unsure"]
    without, others = outcome(model, batch)
    assert torch.allclose(loss, without)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(gradients, others, strict=True))


def test_whether_a_mask_is_empty_is_left_open_where_only_unsure_pixels_could_tell():
    batch = some_batch(corner())
    batch["unsure"][2] = 0
    batch["mask"][1, ..., :, 20:] = batch["mask"][1, ..., 16:, :] = 0  # all that is left of the second is unsure
    del batch["raters"], batch["rater_valid"]
    targets = training_targets(batch, "one", skip_empty=True)
    assert targets.present.flatten().tolist() == [1, 0, 0]
    assert targets.known.flatten().tolist() == [1, 0, 1]
    assert targets.weight.flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ["lite", "supervised"])
@pytest.mark.parametrize("raters", [1, 2])
def test_the_mask_under_unsure_pixels_changes_no_score_of_a_validation(tmp_path, name, raters):
    def scores(batch):
        torch.manual_seed(0)
        trainer = tiny_trainer(tmp_path, callbacks=[])
        return trainer.validate(MODELS[name](), DataLoader([batch], batch_size=None), verbose=False)

    batch = some_batch(corner())
    batch |= {"raters": batch["raters"][:, :raters], "rater_valid": batch["rater_valid"][:, :raters]}
    first = scores(dict(batch))
    doubted = batch["unsure"] > 0
    batch["mask"] = torch.where(doubted, 1 - batch["mask"], batch["mask"])
    batch["raters"] = torch.where(doubted[:, None], 1 - batch["raters"], batch["raters"])
    assert scores(dict(batch)) == first
    del batch["unsure"]
    assert scores(dict(batch)) != first
