"""How often does a sampler draw the rare mode, even with a perfect denoiser?

The distribution has only two masks, with probabilities 0.8 and 0.2. So the best possible prediction of x_0 has a closed
form. Run ``python experiments/benchmarks/sampler_modes.py`` for the table in docs/results/sampling.md.
"""

from collections.abc import Iterator

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from diffmedseg.diffusion import NoiseProcess, ReverseProcess
from diffmedseg.keyed_random import keyed_generator

RARE = 0.2
SIZE = 16
SPACINGS = (1.0, 1.5, 2.0)


def two_modes() -> Tensor:
    """Return a disc and a larger disc, (2, 1, SIZE, SIZE), in {-1, 1}."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    radius = torch.hypot(x, y)
    return torch.stack([(radius < limit).float() * 2 - 1 for limit in (0.5, 0.75)])[:, None]


def posterior_mean(x_t: Tensor, t: int, process: NoiseProcess, modes: Tensor) -> Tensor:
    """Predict x_0 perfectly: E[x_0 | x_t] of the two-mode distribution, by Bayes' rule."""
    signal, noise = process.signal_and_noise(t)
    log_prior = torch.tensor([1 - RARE, RARE]).log()
    distance = (x_t[:, None] - signal[0] * modes[None]).square().flatten(2).sum(-1)  # (N, 2)
    weights = torch.softmax(log_prior - distance / (2 * noise.flatten() ** 2), dim=1)
    return torch.einsum("nm,mkhw->nkhw", weights, modes)


def draw(reverse: ReverseProcess, process: NoiseProcess, num_steps: int, chains: int) -> tuple[float, float]:
    """Return the share of chains that end at the rare mode, and the share of saturated pixels (|x| > 0.9)."""
    modes = two_modes()
    generators = [keyed_generator("modes", i) for i in range(chains)]
    x_0 = reverse(
        lambda x_t, t: posterior_mean(x_t, t, process, modes), process, modes.shape[1:], generators, num_steps
    )
    distances = (x_0[:, None] - modes[None]).square().flatten(2).sum(-1)
    return float((distances.argmin(1) == 1).float().mean()), float((x_0.abs() > 0.9).float().mean())


def samplers() -> Iterator[tuple[str, ReverseProcess]]:
    """Yield samplers with every scheduler and spacing."""
    schedulers: dict[str, tuple[SchedulerMixin, float]] = {
        "DDIM": (DDIMScheduler(), 0.0),
        "DDIM, eta 1": (DDIMScheduler(), 1.0),
        "DDPM": (DDPMScheduler(), 0.0),
        "DPM-Solver++": (DPMSolverMultistepScheduler(), 0.0),
        "UniPC": (UniPCMultistepScheduler(), 0.0),
    }
    for spacing in SPACINGS:
        for name, (scheduler, eta) in schedulers.items():
            yield f"{name} | {spacing:g}", ReverseProcess(scheduler, eta, spacing=spacing)


def main(chains: int = 2000) -> None:
    """Print the table."""
    steps = (1, 2, 4, 10, 50)
    for input_scale in (1.0, 0.3, 0.1):
        process = NoiseProcess(input_scale=input_scale)
        print(
            f"\nInput scale {input_scale}: rare mode drawn (truth {RARE:.0%}), and saturated pixels, {chains} chains\n"
        )
        print("| scheduler | spacing | " + " | ".join(f"{n} step{'s' * (n > 1)}" for n in steps) + " |")
        print("|---|---|" + "---|" * len(steps))
        for name, reverse in samplers():
            cells = [draw(reverse, process, n, chains) for n in steps]
            print(f"| {name} | " + " | ".join(f"{rare:.1%}, {full:.0%}" for rare, full in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
