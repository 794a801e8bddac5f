"""Optimiser factory, parameter groups and learning-rate schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer


class SharedFactory:
    """Makes the optimiser. Copies of the model share the factory.

    The average of the weights is a deep copy of the model. On the command line, ``make`` refers to the parser, and
    through it to the Trainer and its processes. A deep copy of ``make`` would include them.
    """

    def __init__(self, make: OptimizerCallable) -> None:
        self.make = make

    def __call__(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]]) -> Optimizer:
        """Make the optimiser for parameters or groups of parameters."""
        return self.make(parameters)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedFactory":
        return self


def warmup_cosine(warmup_steps: int, steps: float) -> Callable[[int], float]:
    """Make the schedule of the learning rate's factor. With infinitely many steps, it stays 1 after the warm-up.

    The schedule is a plain function. A callable object would have state, and a longer run that resumes from a
    checkpoint would restore the old state.
    """

    def factor(step: int) -> float:
        warmup = min((step + 1) / max(warmup_steps, 1), 1.0)
        if math.isinf(steps):
            return warmup
        progress = min(max(step - warmup_steps, 0) / max(steps - warmup_steps, 1), 1.0)
        return warmup * (1 + math.cos(math.pi * progress)) / 2

    return factor


def scaled(factor: Callable[[int], float], by: float) -> Callable[[int], float]:
    """Multiply a schedule by a number."""
    return lambda step: by * factor(step)


def split_encoder(parameters: Iterable[Tensor], encoder: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Split parameters into two groups for the optimiser: the rest of the network, and the encoder."""
    encoder_parameters = list(encoder)
    ids = {id(parameter) for parameter in encoder_parameters}
    network_parameters = [parameter for parameter in parameters if id(parameter) not in ids]
    return [{"params": network_parameters, "name": "network"}, {"params": encoder_parameters, "name": "encoder"}]
