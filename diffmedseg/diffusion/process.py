"""The forward noise process, and the conversions between a network's prediction and x_0.

Symbols (Ho et al. 2020, arXiv 2006.11239):

=============  =====================================================================
``x_0``        clean variable in [-1, 1]
``eps``        standard normal noise
``t``          time step, an integer in [0, T)
``alpha_bar``  cumulative product of 1 - beta; log-SNR = log(alpha_bar / (1 - alpha_bar))
``x_t``        sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps
``v``          sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, arXiv 2202.00512, App. D)
=============  =====================================================================
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from diffmedseg.configurable import Configurable

Prediction = Literal["x_0", "v", "epsilon"]
Schedule = Literal["cosine", "linear"]

# Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.2 and eq. 17.
_COSINE_OFFSET = 0.008
_MAX_BETA = 0.999
# Ho et al. 2020, section 4: beta from 1e-4 to 0.02 for T = 1000, scaled by 1000 / T for other T.
_LINEAR_BETAS = (1e-4, 0.02)


def schedule_alpha_bar(schedule: Schedule, num_train_steps: int) -> Tensor:
    """Compute alpha_bar of a published schedule.

    Args:
        schedule: ``cosine`` (Nichol & Dhariwal 2021, eq. 17) or ``linear`` (Ho et al. 2020, section 4).
        num_train_steps: T.

    Returns:
        alpha_bar, shape (T,), float64, strictly decreasing, on the CPU for any default device.
    """
    if schedule == "linear":
        low, high = (beta * 1000 / num_train_steps for beta in _LINEAR_BETAS)
        betas = torch.linspace(low, high, num_train_steps, dtype=torch.float64, device="cpu")
    else:
        s = torch.arange(num_train_steps + 1, dtype=torch.float64, device="cpu") / num_train_steps
        f = torch.cos((s + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2
        betas = 1 - f[1:] / f[:-1]
    return torch.cumprod(1 - betas.clamp(max=_MAX_BETA), 0)


def shift_log_snr(alpha_bar: Tensor, input_scale: float) -> Tensor:
    """Shift a schedule's log-SNR by 2 log(input_scale).

    The shift has the same effect as scaling x_0 by s and rescaling x_t to unit variance (Chen 2023, arXiv 2301.10972,
    section 2.3, there called input scaling). Masks stay +-1, so every scheduler still clips correctly.

    Args:
        alpha_bar: Shape (T,).
        input_scale: s > 0. A value below 1 makes every step noisier.
    """
    signal = input_scale**2 * alpha_bar
    return signal / (1 - alpha_bar + signal)


class NoiseProcess(Configurable, nn.Module):
    """A discrete Gaussian noise process, with its schedule as a buffer.

    Masks are redundant: with ordinary noise, a network reads the mask from x_t and ignores the image. So the defaults
    are an ``input_scale`` below 1 and a prediction of x_0.

    Args:
        num_train_steps: T.
        schedule: The published schedule to start from.
        input_scale: Shift of the schedule's log-SNR; see :func:`shift_log_snr`.
        prediction: Quantity that the network predicts. For ``x_0`` the output is a logit: x_0 = tanh(output / 2), so
            that (x_0 + 1) / 2 is the sigmoid of the logit.
    """

    alpha_bar: Tensor

    def __init__(
        self,
        num_train_steps: int = 1000,
        schedule: Schedule = "cosine",
        input_scale: float = 0.3,
        prediction: Prediction = "x_0",
    ) -> None:
        super().__init__()
        if num_train_steps < 2:
            raise ValueError(f"num_train_steps is {num_train_steps}; a noise process needs at least 2.")
        if input_scale <= 0:
            raise ValueError(f"input_scale is {input_scale}; it has to be positive (1 keeps the schedule).")
        self.num_train_steps = num_train_steps
        self.prediction: Prediction = prediction
        alpha_bar = shift_log_snr(schedule_alpha_bar(schedule, num_train_steps), input_scale)
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        #: beta_t of the shifted schedule, for diffusers' schedulers.
        self.betas: list[float] = (1 - alpha_bar / previous).tolist()
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)

    def signal_and_noise(self, t: Tensor | int, ndim: int = 4) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped to multiply a tensor of ``ndim`` dimensions."""
        alpha_bar = self.alpha_bar[t].reshape(-1, *[1] * (ndim - 1))
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Draw x_t given x_0 (Ho et al. 2020, eq. 4).

        Args:
            x_0: (B, ...), in [-1, 1].
            eps: (B, ...), standard normal.
            t: (B,), int64, in [0, T).
        """
        signal, noise = self.signal_and_noise(t, x_0.ndim)
        return signal * x_0 + noise * eps

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the training target: x_0, v or epsilon. Shapes as in ``add_noise``."""
        if self.prediction == "x_0":
            return x_0
        if self.prediction == "epsilon":
            return eps
        signal, noise = self.signal_and_noise(t, x_0.ndim)
        return signal * eps - noise * x_0

    def to_x_0(self, output: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Turn a network's output into a prediction of x_0, clamped to [-1, 1].

        Args:
            output: (B, ...), output of the network.
            x_t: (B, ...), input of the network.
            t: (B,), or one integer for all.
        """
        if self.prediction == "x_0":
            return torch.tanh(output / 2)
        signal, noise = self.signal_and_noise(t, x_t.ndim)
        x_0 = (x_t - noise * output) / signal if self.prediction == "epsilon" else signal * x_t - noise * output
        return x_0.clamp(-1, 1)
