"""A denoiser that keeps what it is given."""

import torch
from torch import Tensor

from diffmedseg.models import Condition, Denoiser


class Recorder(Denoiser):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(3, 1)
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def encode(self, image: Tensor) -> Condition:
        return Condition(())

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, label: Tensor | None = None) -> Tensor:
        self.calls.append((x_t, t, label))
        return x_t * self.weight
