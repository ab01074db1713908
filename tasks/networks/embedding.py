"""Time as a vector: sines and cosines of geometrically spaced frequencies."""

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Embed times in [0, 1] as ``[batch, size]`` through a two-layer perceptron.

    Args:
        size: width of the embedding and of its hidden layer.
        frequencies: number of frequencies, from 1 to ``highest`` radians per unit of time.
        highest: the highest frequency; resolves times about 1 / highest apart.
    """

    def __init__(self, size: int, *, frequencies: int = 32, highest: float = 200.0) -> None:
        super().__init__()
        exponents = torch.linspace(0, math.log(highest), frequencies)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)
        self.frequencies: Tensor
        self.hidden = nn.Linear(2 * frequencies, size)
        self.output = nn.Linear(size, size)

    def forward(self, t: Tensor) -> Tensor:
        """Give ``[batch, size]`` for ``t [batch]``; a 0-d time gives ``[1, size]`` and is broadcast by the caller."""
        angles = t.reshape(-1, 1).to(self.frequencies.dtype) * self.frequencies
        features = torch.cat([angles.cos(), angles.sin()], 1)
        return torch.as_tensor(self.output(nn.functional.silu(self.hidden(features))))
