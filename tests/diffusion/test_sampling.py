import inspect
import itertools

import diffusers
import pytest
import torch
from sampler_modes import RARE, draw, posterior_mean, samplers, two_modes

from diffmedseg.diffusion import NoiseProcess, ReverseProcess
from diffmedseg.keyed_random import keyed_generator, keyed_normal

SCHEDULERS = [
    diffusers.DDIMScheduler,
    diffusers.DDPMScheduler,
    diffusers.DPMSolverMultistepScheduler,
    diffusers.UniPCMultistepScheduler,
]


def generators(n, seed=0):
    return [keyed_generator(seed, "case", i) for i in range(n)]


@pytest.mark.parametrize("spacing", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("prediction", ["x_0", "v", "epsilon"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 7, 8])
def test_an_oracle_recovers_the_mask(scheduler, prediction, spacing, steps):
    """The released DPM-Solver path returns the network's variance channel instead of the mask."""
    process = NoiseProcess(prediction=prediction, input_scale=0.5)
    x_0 = two_modes()[:1]

    def oracle(x_t, t):
        signal, noise = process.signal_and_noise(t)
        eps = (x_t - signal * x_0) / noise
        target = process.target(x_0, eps, torch.tensor([t]))
        return process.to_x_0(target * 40 if prediction == "x_0" else target, x_t, t)

    reverse = ReverseProcess(scheduler(), spacing=spacing)
    sample = reverse(oracle, process, x_0.shape[1:], generators(3), steps)
    torch.testing.assert_close(sample, x_0.expand_as(sample), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("name", "reverse"), list(samplers()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_noise_is_keyed_not_consumed(name, reverse):
    process, modes = NoiseProcess(input_scale=0.3), two_modes()

    def predict(x_t, t):
        return posterior_mean(x_t, t, process, modes)

    together = reverse(predict, process, modes.shape[1:], generators(5), 4)
    alone = [reverse(predict, process, modes.shape[1:], [g], 4) for g in generators(5)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_another_seed_is_another_sample():
    process = NoiseProcess()
    start = [ReverseProcess()(lambda x_t, t: x_t.clamp(-1, 1), process, (1, 4, 4), generators(1, s), 2) for s in (0, 1)]
    assert not torch.equal(*start)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_step_calls_the_network_once(scheduler):
    calls = []

    def predict(x_t, t):
        calls.append(t)
        return torch.zeros_like(x_t)

    ReverseProcess(scheduler())(predict, NoiseProcess(), (1, 4, 4), generators(1), 7)
    assert len(calls) == 7
    assert all(isinstance(t, int) for t in calls)
    assert calls == sorted(calls, reverse=True)


def test_all_stochastic_steps_of_ddim_are_ddpm():
    """DDIM with eta = 1 over all T steps has DDPM's posterior mean and variance (Song et al. 2021, section 4.1)."""
    process, modes = NoiseProcess(100, input_scale=0.5), two_modes()

    def predict(x_t, t):
        return posterior_mean(x_t, t, process, modes)

    ddim = ReverseProcess(diffusers.DDIMScheduler(), eta=1.0)
    ddpm = ReverseProcess(diffusers.DDPMScheduler(variance_type="fixed_small"))
    a, b = (reverse(predict, process, modes.shape[1:], generators(4), 100) for reverse in (ddim, ddpm))
    torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_the_default_sampler_draws_the_rare_mode_and_ends_saturated():
    """Few steps lose modes even with a perfect denoiser; see docs/results/sampling.md for the whole table."""
    process = NoiseProcess()
    frequency = {steps: draw(ReverseProcess(), process, steps, 600) for steps in (1, 4, 50)}
    assert frequency[50][0] == pytest.approx(RARE, abs=0.05)
    assert frequency[1][0] == 0  # one step gives everybody the mean
    assert frequency[4][0] < frequency[50][0]
    assert frequency[50][1] > 0.99


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"\[1, 1000\]"):
        ReverseProcess().levels(NoiseProcess(), steps)


@pytest.mark.parametrize("spacing", [0.3, 1.0, 1.5, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 600, 1000])
def test_levels_begin_with_noise_alone_and_fall(steps, spacing):
    levels = ReverseProcess(spacing=spacing).levels(NoiseProcess(), steps)
    assert (len(levels), levels[0]) == (steps, 999)
    assert all(a > b for a, b in itertools.pairwise(levels))
    assert levels[-1] >= 0


def test_spacing_says_where_steps_are():
    assert ReverseProcess().levels(NoiseProcess(), 4) == [999, 749, 499, 249]
    assert ReverseProcess(spacing=2).levels(NoiseProcess(), 4) == [999, 937, 749, 437]
    assert ReverseProcess(start=0.5).levels(NoiseProcess(), 2) == [499, 249]


@pytest.mark.parametrize(
    ("scheduler", "steps"), [(one, steps) for one in SCHEDULERS[:2] for steps in (4, 1000)] + [(SCHEDULERS[2], 4)]
)
def test_even_levels_are_those_of_diffusers(scheduler, steps):
    """Its own trailing spacing, over the whole process, gives the same chains."""
    process, modes = NoiseProcess(input_scale=0.3), two_modes()

    def predict(x_t, t):
        return posterior_mean(x_t, t, process, modes)

    theirs = scheduler(trained_betas=process.betas, prediction_type="sample", timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    options = {"generator": generators(4)} if scheduler is not SCHEDULERS[2] else {}
    own = generators(4)
    x_t = keyed_normal(modes.shape[1:], options.get("generator", own), process.alpha_bar.device)
    for t in theirs.timesteps.tolist():
        x_0 = predict(x_t, t)
        x_t = theirs.step(x_0, t, x_t, **options).prev_sample
    ours = ReverseProcess(scheduler())(predict, process, modes.shape[1:], generators(4), steps)
    torch.testing.assert_close(ours, x_0, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("scheduler", "option"),
    [
        (scheduler, option)
        for scheduler in SCHEDULERS
        for option in (
            {"use_karras_sigmas": True},
            {"use_exponential_sigmas": True},
            {"use_beta_sigmas": True},
            {"use_lu_lambdas": True},
            {"rescale_betas_zero_snr": True},
        )
        if next(iter(option)) in inspect.signature(scheduler).parameters
    ],
)
def test_noise_is_that_of_the_levels_the_network_is_told(scheduler, option):
    """Whatever noise levels a scheduler would choose by itself: the network would be given others than it is told."""
    process, modes = NoiseProcess(input_scale=0.3), two_modes()

    def predict(x_t, t):
        return posterior_mean(x_t, t, process, modes)

    plain, other = (
        ReverseProcess(scheduler(**options))(predict, process, modes.shape[1:], generators(3), 5)
        for options in ({}, option)
    )
    torch.testing.assert_close(other, plain, atol=1e-5, rtol=0)


def test_a_scheduler_that_takes_no_schedule_is_refused():
    with pytest.raises(ValueError, match="use DDIMScheduler"):
        ReverseProcess(diffusers.FlowMatchEulerDiscreteScheduler())


def test_keyed_streams_differ_between_neighbouring_keys():
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1", ""), (0, "a", 11)]
    values = {tuple(torch.rand(4, generator=keyed_generator(*key)).tolist()) for key in keys}
    assert len(values) == len(keys)
