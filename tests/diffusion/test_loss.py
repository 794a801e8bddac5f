import pytest
import torch

from diffmedseg.diffusion import DiffusionLoss, NoiseProcess, mask_to_x
from diffmedseg.diffusion.loss import soft_dice_loss


def inputs(prediction="x_0", rows=6):
    generator = torch.Generator().manual_seed(1)
    process = NoiseProcess(prediction=prediction)
    x_0 = mask_to_x((torch.rand(rows, 2, 8, 8, generator=generator) > 0.6).float())
    eps, t = torch.randn(x_0.shape, generator=generator), torch.randint(1000, (rows,), generator=generator)
    return process, process.add_noise(x_0, eps, t), t, x_0, eps


@pytest.mark.parametrize("weights", [{"bce": 1.0}, {"bce": 0.0, "mse": 1.0}, {"bce": 0.0, "dice": 1.0}])
@pytest.mark.parametrize("weighting", ["uniform", "snr_plus_one"])
def test_a_right_prediction_costs_nothing_and_a_wrong_one_more(weights, weighting):
    process, x_t, t, x_0, eps = inputs()
    loss = DiffusionLoss(**weights, weighting=weighting)
    right, wrong = (loss(process, sign * 40 * x_0, x_t, t, x_0, eps) for sign in (1, -1))
    assert right < 1e-3 < wrong


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_squared_error_is_that_of_the_predicted_quantity(prediction):
    process, x_t, t, x_0, eps = inputs(prediction)
    output = process.target(x_0, eps, t) + 0.5
    assert DiffusionLoss(mse=1, bce=0)(process, output, x_t, t, x_0, eps) == pytest.approx(0.25)


def test_cross_entropy_needs_logits():
    with pytest.raises(ValueError, match="set bce to 0 and mse to 1"):
        DiffusionLoss()(*inputs("v")[:1], *(x for x in (inputs("v")[1], inputs("v")[1], *inputs("v")[2:])))


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one must be set"):
        DiffusionLoss(bce=0)


def test_loss_of_a_batch_is_the_mean_of_its_halves():
    process, x_t, t, x_0, eps = inputs()
    output = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
    loss = DiffusionLoss(mse=0.5, dice=0.5)
    halves = [loss(process, output[s], x_t[s], t[s], x_0[s], eps[s]) for s in (slice(3), slice(3, 6))]
    torch.testing.assert_close(loss(process, output, x_t, t, x_0, eps), torch.stack(halves).mean())


def test_empty_masks_have_a_soft_dice_gradient():
    probability = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    soft_dice_loss(probability, torch.zeros(1, 1, 8, 8)).sum().backward()
    assert (probability.grad > 0).all()
