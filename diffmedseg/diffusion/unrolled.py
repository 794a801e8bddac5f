"""The reverse process as a weighted sum at each step, for exported graphs.

A deterministic scheduler on predictions of x_0 is linear: each x_t is a weighted sum of the first x_t and all earlier
predictions of x_0. The weights depend only on the noise levels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffmedseg.diffusion.process import NoiseProcess
from diffmedseg.diffusion.sampling import ReverseProcess
from diffmedseg.keyed_random import keyed_generator


def step_weights(reverse: ReverseProcess, process: NoiseProcess, num_steps: int) -> list[list[float]]:
    """Return the weights of the first x_t and all earlier x_0, for the x_t of each step but the first.

    The scheduler runs on unit vectors instead of maps, so that each x_t it returns is the list of its weights.

    Returns:
        ``num_steps`` - 1 lists. List i has i + 2 numbers: the weight of the first x_t, then the weights of the x_0.

    Raises:
        ValueError: If the scheduler adds noise at its steps.
    """
    units = torch.eye(num_steps + 1, dtype=torch.float64)
    visited: list[Tensor] = []

    def unit_x_0(x_t: Tensor, t: int) -> Tensor:
        visited.append(x_t[0])
        return units[len(visited)][None]

    generator = keyed_generator("step weights")
    state = generator.get_state()
    reverse.run(unit_x_0, process, units[:1], [generator], num_steps)
    if not torch.equal(generator.get_state(), state):
        raise ValueError(
            f"{type(reverse.scheduler).__name__} adds noise at every step, so it is no fixed sum. Use DDIMScheduler "
            "with eta 0, DPMSolverMultistepScheduler or UniPCMultistepScheduler."
        )
    return [[float(weight) for weight in x_t[: step + 2]] for step, x_t in enumerate(visited[1:])]


class UnrolledReverse:
    """Runs a reverse process by the sums of :func:`step_weights`.

    Args:
        reverse: The reverse process.
        process: The noise process the predictor was trained on.
        num_steps: Number of evaluations of the predictor per row.

    Raises:
        ValueError: If the scheduler adds noise at its steps, or ``num_steps`` does not fit.
    """

    def __init__(self, reverse: ReverseProcess, process: NoiseProcess, num_steps: int) -> None:
        self._reverse, self.process = reverse, process
        self.levels, self.weights = reverse.levels(process, num_steps), step_weights(reverse, process, num_steps)

    def __call__(
        self, predict_x_0: Callable[[Tensor, int], Tensor], noise: Tensor, guess: Tensor | None = None
    ) -> Tensor:
        """Draw x_0 from given noise (N, ...); see :meth:`ReverseProcess.__call__`."""
        x_t = self._reverse.first(self.process, noise, self.levels[0], guess)
        terms = [x_t]
        for t, row in zip(self.levels[:-1], self.weights, strict=True):
            terms.append(predict_x_0(x_t, t).float())
            x_t = terms[0] * row[0]
            for term, weight in zip(terms[1:], row[1:], strict=True):
                x_t = x_t + term * weight
        return predict_x_0(x_t, self.levels[-1]).float().clamp(-1, 1)
