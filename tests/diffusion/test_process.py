import diffusers
import pytest
import torch
from hypothesis import given, settings, strategies as st

from diffmedseg.diffusion import NoiseProcess, ReverseProcess, mask_to_x, x_to_mask
from diffmedseg.diffusion.process import schedule_alpha_bar, shift_log_snr
from diffmedseg.keyed_random import keyed_generator, keyed_normal

SCHEDULES = ["cosine", "linear"]
PREDICTIONS = ["x_0", "v", "epsilon"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [50, 1000])
def test_noise_grows_from_almost_none_to_almost_all(schedule, steps):
    alpha_bar = schedule_alpha_bar(schedule, steps)
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[0] > 0.97
    assert alpha_bar[-1] < 1e-4


@given(scale=st.floats(0.05, 2), alpha_bar=st.floats(1e-6, 1 - 1e-6))
def test_shift_is_what_scaling_x_0_does(scale, alpha_bar):
    ab = torch.tensor([alpha_bar], dtype=torch.float64)
    snr_of_scaled_input = scale**2 * ab / (1 - ab)
    shifted = shift_log_snr(ab, scale)
    torch.testing.assert_close(shifted / (1 - shifted), snr_of_scaled_input, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_diffusers_schedulers_see_our_schedule(schedule, scale):
    process = NoiseProcess(200, schedule, scale)
    for levels in (range(200), [199, 120, 30]):
        scheduler = ReverseProcess(diffusers.DDPMScheduler()).prepare(process, levels)
        torch.testing.assert_close(scheduler.alphas_cumprod, process.alpha_bar[sorted(levels)], rtol=1e-3, atol=1e-6)


def test_noisy_masks_have_the_stated_moments():
    process = NoiseProcess(input_scale=0.5)
    x_0 = torch.ones(4000, 1, 4, 4)
    for step in (0, 400, 999):
        t = torch.full((len(x_0),), step)
        eps = keyed_normal(x_0.shape[1:], [keyed_generator(step, i) for i in range(len(x_0))], x_0.device)
        x_t = process.add_noise(x_0, eps, t)
        signal, noise = process.signal_and_noise(step)
        assert x_t.mean() == pytest.approx(float(signal), abs=0.02)
        assert x_t.std() == pytest.approx(float(noise), abs=0.02)


@settings(max_examples=30)
@given(prediction=st.sampled_from(PREDICTIONS), schedule=st.sampled_from(SCHEDULES), step=st.integers(0, 900))
def test_the_target_gives_x_0_back(prediction, schedule, step):
    process = NoiseProcess(1000, schedule, 1.0, prediction)
    generator = keyed_generator("target", step)
    x_0 = mask_to_x((torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float())
    eps, t = torch.randn(x_0.shape, generator=generator), torch.tensor([step, step])
    output = process.target(x_0, eps, t)
    if prediction == "x_0":
        output = output * 40  # a saturated logit
    torch.testing.assert_close(process.to_x_0(output, process.add_noise(x_0, eps, t), t), x_0, atol=1e-2, rtol=0)


def test_conversions_between_mask_and_x():
    mask = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(x_to_mask(mask_to_x(mask)), mask)
    assert x_to_mask(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]


@pytest.mark.parametrize("arguments", [{"num_train_steps": 1}, {"input_scale": 0.0}])
def test_impossible_processes_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        NoiseProcess(**arguments)


def test_schedule_is_a_buffer_that_is_not_saved():
    process = NoiseProcess()
    assert "alpha_bar" in dict(process.named_buffers())
    assert not process.state_dict()
