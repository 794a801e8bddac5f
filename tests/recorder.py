"""A denoiser that keeps what it is given."""

import torch

from diffmedseg.models import Condition, Denoiser


class Recorder(Denoiser):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__(3, 1)
        self.calls = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def encode(self, image):
        return Condition(())

    def forward(self, x_t, t, condition, label=None):
        self.calls.append((x_t, t, label))
        return x_t * self.weight
