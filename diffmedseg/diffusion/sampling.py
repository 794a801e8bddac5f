"""The reverse process: diffusers' schedulers with keyed noise."""

import inspect
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from diffmedseg.configurable import Configurable
from diffmedseg.diffusion.process import NoiseProcess
from diffmedseg.keyed_random import Generator, keyed_normal

_MAX_BETA = 1 - 2**-20  # a larger beta could be 1 in float32, and a signal of 0 has no logarithm
#: Options that would give x_t other noise levels than the network expects.
_OTHER_LEVELS: dict[str, object] = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
    "rescale_betas_zero_snr": False,
}


class ReverseProcess(Configurable):
    """Runs a diffusers scheduler from noise to x_0.

    Each call makes a new scheduler for a noise process with only the visited levels ("respacing", Nichol & Dhariwal
    2021, arXiv 2102.09672, section 4). So calls do not share state, and every scheduler can take uneven steps. Our own
    code turns epsilon, v or x_0 predictions into a clamped x_0, and every scheduler runs on predictions of x_0.

    Args:
        scheduler: Any diffusers scheduler that takes ``trained_betas`` and ``prediction_type="sample"`` (DDPM, DDIM,
            DPMSolverMultistep, UniPCMultistep). None for DDIM. The scheduler's own choice of time steps and noise
            levels, such as Karras', is not used.
        eta: Stochasticity of DDIM: 0 is deterministic given the first noise, 1 is like DDPM (Song et al. 2021,
            arXiv 2010.02502, eq. 16). Other schedulers ignore it.
        start: First noise level, as a share of T. Below 1, chains start from a noisy guess of x_0 instead of pure
            noise, and all steps are below this level (truncated diffusion, Zheng et al. 2022, arXiv 2202.09671).
        spacing: Step i of n, from 0, is at level T (1 - (i / n) ** spacing). 1 is even. Above 1, steps are smaller at
            high noise, where redundant masks decide between their modes (docs/results/medsegdiff-lite.md, "Where few
            steps should go").

    Raises:
        ValueError: If the scheduler cannot take a schedule or a prediction of x_0, start is not in (0, 1], or spacing
            is not above 0.
    """

    def __init__(
        self, scheduler: SchedulerMixin | None = None, eta: float = 0.0, start: float = 1.0, spacing: float = 1.0
    ) -> None:
        if not 0 < start <= 1:
            raise ValueError(f"start is {start}; it has to be above 0, and at most 1.")
        if not spacing > 0:
            raise ValueError(f"spacing is {spacing}; it has to be above 0.")
        self.scheduler = scheduler or DDIMScheduler()
        self.eta, self.start, self.spacing = eta, start, spacing
        accepted = inspect.signature(type(self.scheduler).__init__).parameters
        missing = {"trained_betas", "prediction_type"} - set(accepted)
        if missing:
            name = type(self.scheduler).__name__
            raise ValueError(
                f"{name} takes no {' and no '.join(sorted(missing))}; use DDIMScheduler, DDPMScheduler, "
                "DPMSolverMultistepScheduler or UniPCMultistepScheduler."
            )

    def levels(self, process: NoiseProcess, num_steps: int) -> list[int]:
        """Return the levels t of the steps, in descending order.

        Raises:
            ValueError: If ``num_steps`` is not between 1 and the number of levels up to ``start``.
        """
        most = max(round(self.start * process.num_train_steps), 1)
        if not 1 <= num_steps <= most:
            raise ValueError(f"num_steps is {num_steps}; it has to lie in [1, {most}].")
        levels: list[int] = []
        for i in range(num_steps):
            t = round(most * (1 - (i / num_steps) ** self.spacing)) - 1
            t = max(t, num_steps - 1 - i)  # leaves a level for each step that follows
            levels.append(min(t, levels[-1] - 1) if levels else t)
        return levels

    def prepare(self, process: NoiseProcess, levels: Sequence[int]) -> SchedulerMixin:
        """Make a new scheduler for a process with only these levels; its time step i is the i-th lowest level."""
        alpha_bar = np.cumprod(1 - np.asarray(process.betas))[sorted(levels)]
        betas = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
        accepted = inspect.signature(type(self.scheduler).__init__).parameters
        scheduler = type(self.scheduler).from_config(
            self.scheduler.config,
            **{name: value for name, value in _OTHER_LEVELS.items() if name in accepted},
            num_train_timesteps=len(levels),
            trained_betas=betas.clip(max=_MAX_BETA).tolist(),
            prediction_type="sample",
            timestep_spacing="trailing",  # all levels, including the last
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # numpy's, of diffusers
            scheduler.set_timesteps(len(levels))
        return scheduler

    def __call__(
        self,
        predict_x_0: Callable[[Tensor, int], Tensor],
        process: NoiseProcess,
        shape: Sequence[int],
        generators: Sequence[Generator],
        num_steps: int,
        guess: Tensor | None = None,
    ) -> Tensor:
        """Draw one x_0 per generator.

        Args:
            predict_x_0: Takes x_t (N, *shape) and the integer t, returns x_0 in [-1, 1] of the same shape.
            process: The noise process the predictor was trained on.
            shape: Shape of a row, such as (K, H, W).
            generators: One CPU generator per row, N in all; all noise of a row comes from its own.
            num_steps: Number of evaluations of ``predict_x_0`` per row.
            guess: (N, *shape), in [-1, 1]: start of the chains if ``start`` is below 1; not used if it is 1.

        Returns:
            x_0, shape (N, *shape), float32, in [-1, 1].

        Raises:
            ValueError: If ``start`` is below 1 and there is no guess.
        """
        noise = keyed_normal(shape, generators, process.alpha_bar.device)
        x_t = self.first(process, noise, self.levels(process, num_steps)[0], guess)
        return self.run(predict_x_0, process, x_t, generators, num_steps)

    def first(self, process: NoiseProcess, noise: Tensor, level: int, guess: Tensor | None) -> Tensor:
        """Return the first x_t of the chains, from noise ``(N, *shape)``: the noise itself, or a noisy guess of x_0.

        Raises:
            ValueError: If ``start`` is below 1 and there is no guess.
        """
        if self.start == 1:
            return noise
        if guess is None:
            raise ValueError(f"start is {self.start}; below 1, chains need a guess of x_0.")
        return process.add_noise(guess, noise, torch.full((noise.shape[0],), level, device=noise.device))

    def run(
        self,
        predict_x_0: Callable[[Tensor, int], Tensor],
        process: NoiseProcess,
        x_t: Tensor,
        generators: Sequence[Generator],
        num_steps: int,
    ) -> Tensor:
        """Run chains from their first x_t, ``(N, *shape)``, to x_0; see :meth:`__call__`."""
        levels = self.levels(process, num_steps)
        scheduler = self.prepare(process, levels)
        options: dict[str, object] = {"eta": self.eta, "generator": list(generators)}
        accepted = inspect.signature(scheduler.step).parameters
        options = {name: value for name, value in options.items() if name in accepted}
        for step, t in zip(scheduler.timesteps[:-1].tolist(), levels[:-1], strict=True):
            x_0 = predict_x_0(x_t, t).float()
            x_t = scheduler.step(x_0, step, x_t, **options).prev_sample
        return predict_x_0(x_t, levels[-1]).float().clamp(-1, 1)  # the result of the last step
