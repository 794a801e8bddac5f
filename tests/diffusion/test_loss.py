import pytest
import torch

from diffmedseg.diffusion import DiffusionLoss, NoiseProcess, PriorLoss, mask_to_x
from diffmedseg.diffusion.loss import row_dice_loss, soft_dice_loss


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


def half_empty(answers):
    """Four images, two of them without a lesion; ``answers`` are the probabilities in and outside of the lesions."""
    mask = torch.zeros(4, 1, 8, 8)
    mask[:2, :, 2:6, 2:6] = 1
    inside, outside = answers
    return torch.where(mask > 0, inside, outside), mask


def test_over_a_batch_an_empty_answer_earns_nothing():
    """Over each image it earns a whole Dice for every empty mask, more than a network that is still unsure earns."""
    nothing, unsure = half_empty((0.0, 0.0)), half_empty((0.6, 0.1))
    of_images = [row_dice_loss(*answer, "image").mean() for answer in (nothing, unsure)]
    of_batch = [row_dice_loss(*answer, "batch").mean() for answer in (nothing, unsure)]
    assert of_images[0] < of_images[1]
    assert of_batch[1] < of_batch[0]
    assert of_batch[0] > 0.95


@pytest.mark.parametrize("over", ["image", "batch"])
def test_the_dice_of_one_image_is_the_same_over_both(over):
    probability, mask = torch.rand(1, 2, 8, 8), (torch.rand(1, 2, 8, 8) > 0.5).float()
    torch.testing.assert_close(row_dice_loss(probability, mask, over), soft_dice_loss(probability, mask))


def test_an_image_without_weight_has_no_gradient():
    probability, mask = half_empty((0.6, 0.1))
    probability = probability.requires_grad_()
    weight = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    (row_dice_loss(probability, mask, "batch", weight) * weight).mean().backward()
    assert [bool(row.any()) for row in probability.grad] == [True, False, True, False]
    logits = torch.zeros_like(mask, requires_grad=True)
    PriorLoss(bce=0, every=5, dice_over="batch")(logits, mask, torch.tensor([[0], [1], [5], [2]])).backward()
    assert [bool(row.any()) for row in logits.grad] == [True, False, True, False]


def test_losses_take_the_dice_over_what_they_say():
    process, x_t, t, x_0, eps = inputs()
    output = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
    mask = x_0 / 2 + 0.5
    loss = DiffusionLoss(bce=0, dice=1, dice_over="batch")(process, output, x_t, t, x_0, eps)
    torch.testing.assert_close(loss, row_dice_loss(output.sigmoid(), mask, "batch").mean())
    prior = PriorLoss(bce=0, dice_over="batch")(output, mask, t[:, None])
    torch.testing.assert_close(prior, row_dice_loss(output.sigmoid(), mask, "batch").mean())


@pytest.mark.parametrize("over", ["image", "batch"])
@pytest.mark.parametrize("weighting", ["uniform", "snr_plus_one"])
def test_a_mask_without_weight_teaches_nothing(over, weighting):
    process, x_t, t, x_0, eps = inputs()
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    output = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2), requires_grad=True)
    losses = (
        DiffusionLoss(mse=1, dice=1, weighting=weighting, dice_over=over)(process, output, x_t, t, x_0, eps, weight),
        PriorLoss(dice_over=over)(output, x_0 / 2 + 0.5, t[:, None], weight),
    )
    for loss in losses:
        [gradient] = torch.autograd.grad(loss, output)
        assert torch.equal(gradient.flatten(2).any(-1), weight > 0)


def test_weights_of_one_change_nothing():
    process, x_t, t, x_0, eps = inputs()
    output, ones = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2)), torch.ones(6, 2)
    loss, prior_loss = DiffusionLoss(dice=1, weighting="snr_plus_one"), PriorLoss(dice_over="batch")
    plain, weighted = (loss(process, output, x_t, t, x_0, eps, *weight) for weight in ((), (ones,)))
    torch.testing.assert_close(weighted, plain)
    plain, weighted = (prior_loss(output, x_0 / 2 + 0.5, t[:, None], *weight) for weight in ((), (ones,)))
    torch.testing.assert_close(weighted, plain)
