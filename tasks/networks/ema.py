"""The exponential moving average of a network's weights, which is what gets kept and used."""

import torch
from torch import Tensor, nn


class MovingAverage:
    """Average weights with decay min(decay, (1 + step) / (10 + step)): quick at first, slow later.

    Args:
        model: the network whose parameters and buffers are followed; their present values start the average.
        decay: the final decay, in [0, 1).
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.state_dict().items()}

    def update(self, model: nn.Module, *, step: int) -> None:
        """Move the average toward the weights after optimiser step ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.weights.values())
        with torch.no_grad():
            torch._foreach_lerp_(averages, list(model.state_dict().values()), 1 - decay)
