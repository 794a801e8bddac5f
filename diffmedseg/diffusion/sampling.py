"""The reverse process: diffusers' schedulers, run over keyed noise."""

import inspect
from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from diffmedseg.diffusion.noise import keyed_normal
from diffmedseg.diffusion.process import NoiseProcess


class ReverseProcess:
    """Runs a diffusers scheduler from noise to x_0.

    The scheduler is used as a recipe: for every call it is made anew with the noise process's schedule, so that
    nothing is carried from one call to the next. Our own code turns epsilon, v or x_0 predictions into a clamped
    x_0, and every scheduler is told that it is given x_0.

    Args:
        scheduler: Any diffusers scheduler that takes ``trained_betas`` and ``prediction_type="sample"`` (DDPM, DDIM,
            DPMSolverMultistep, UniPCMultistep). None stands for DDIM with trailing spacing.
        eta: Stochasticity of DDIM: 0 is deterministic given the first noise, 1 is like DDPM (Song et al. 2021,
            arXiv 2010.02502, eq. 16). Other schedulers ignore it.
        start: Share of the T noise levels to begin at. Below 1 chains begin with a noisy guess of x_0 in place of noise
            alone, and all steps go to the levels below (truncated diffusion, Zheng et al. 2022, arXiv 2202.09671).

    Raises:
        ValueError: If the scheduler cannot take a schedule or a prediction of x_0, or start is not in (0, 1].
    """

    def __init__(self, scheduler: SchedulerMixin | None = None, eta: float = 0.0, start: float = 1.0) -> None:
        if not 0 < start <= 1:
            raise ValueError(f"start is {start}; it has to be above 0, and at most 1.")
        self.scheduler = scheduler or DDIMScheduler(timestep_spacing="trailing")
        self.eta, self.start = eta, start
        accepted = inspect.signature(type(self.scheduler).__init__).parameters
        missing = {"trained_betas", "prediction_type"} - set(accepted)
        if missing:
            name = type(self.scheduler).__name__
            raise ValueError(
                f"{name} takes no {' and no '.join(sorted(missing))}; use DDIMScheduler, DDPMScheduler, "
                "DPMSolverMultistepScheduler or UniPCMultistepScheduler."
            )

    def prepare(self, process: NoiseProcess, num_steps: int) -> SchedulerMixin:
        """Make a fresh scheduler for this process, set to ``num_steps`` steps.

        Raises:
            ValueError: If ``num_steps`` is not in [1, T], or is above T / 20 without dividing T: DDIM and
                DDPM assume steps of T // num_steps, and would be off by more than a twentieth of a step. T is that of
                the levels up to ``start``.
        """
        steps = self._levels(process)
        if not 1 <= num_steps <= steps:
            raise ValueError(f"num_steps is {num_steps}; it has to lie in [1, {steps}].")
        scheduler = type(self.scheduler).from_config(
            self.scheduler.config,
            num_train_timesteps=steps,
            trained_betas=process.betas[:steps],
            prediction_type="sample",
        )
        scheduler.set_timesteps(num_steps)
        if not hasattr(scheduler, "step_index") and num_steps > steps / 20 and steps % num_steps:
            fit = max(n for n in range(1, num_steps) if steps % n == 0)
            raise ValueError(
                f"num_steps is {num_steps}; {type(scheduler).__name__} needs a divisor of {steps}, such as {fit}."
            )
        return scheduler

    def _levels(self, process: NoiseProcess) -> int:
        return max(round(self.start * process.num_train_steps), 1)

    def __call__(
        self,
        predict_x_0: Callable[[Tensor, int], Tensor],
        process: NoiseProcess,
        shape: Sequence[int],
        generators: Sequence[torch.Generator],
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
            guess: (N, *shape), in [-1, 1]: what chains begin with where ``start`` is below 1; unused where it is 1.

        Returns:
            x_0, shape (N, *shape), float32, in [-1, 1].

        Raises:
            ValueError: If there is no guess to begin with.
        """
        scheduler = self.prepare(process, num_steps)
        options: dict[str, object] = {"eta": self.eta, "generator": list(generators)}
        accepted = inspect.signature(scheduler.step).parameters
        options = {name: value for name, value in options.items() if name in accepted}
        x_t = keyed_normal(shape, generators, process.alpha_bar.device)
        if self.start < 1:
            if guess is None:
                raise ValueError(f"start is {self.start}: chains need a guess to begin with.")
            level = torch.full((len(x_t),), int(scheduler.timesteps[0]), device=x_t.device)
            x_t = process.add_noise(guess, x_t, level)
        x_0 = x_t
        for t in scheduler.timesteps.tolist():  # Python integers: no synchronisation with the device
            x_0 = predict_x_0(x_t, t).float()
            x_t = scheduler.step(x_0, t, x_t, **options).prev_sample
        # The last step goes to x_0; where T is not a multiple of the steps, diffusers' DDIM stops short of it.
        return x_0.clamp(-1, 1)
