"""A residual perceptron with time-modulated layers, for vectors and small images."""

import math

import torch
from torch import Tensor, nn

from tasks.networks.embedding import LabelEmbedding, TimeEmbedding, embed, silent_embedding

_LARGEST_EMBEDDING = 64  # of the times; wider ones cost a tenth of a step and gained nothing measurable


class Mlp(nn.Module):
    """Map ``(x, t)`` or ``(x, t, s)`` to an output of the shape of ``x``.

    Each layer is h <- h + silu(W h + b + V e) with e the embedding of times and label, one matrix product a layer.

    Args:
        dim: shape of one state; flattened inside.
        width: features of the hidden layers.
        depth: number of hidden layers.
        fourier: number of random Fourier features of x that join it at the input (0: none); sharp targets in few
            dimensions need them.
        fourier_scale: standard deviation of their frequencies, radians per unit of x.
        two_times: whether there is a second time s. Its branch ends in zeros, so a fresh two-time network that takes
            over the weights of a one-time network computes exactly what that one did.
        classes: number of class labels; 0: labels are ignored.
    """

    def __init__(
        self,
        dim: tuple[int, ...],
        *,
        width: int,
        depth: int,
        fourier: int = 0,
        fourier_scale: float = 2.0,
        two_times: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        size = math.prod(dim)
        self.register_buffer("frequencies", fourier_scale * torch.randn(size, fourier))
        self.frequencies: Tensor
        self.input = nn.Linear(size + 2 * fourier, width)
        embedded = min(width // 2, _LARGEST_EMBEDDING)
        self.time = TimeEmbedding(embedded)
        self.second_time = silent_embedding(embedded) if two_times else None
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulations = nn.ModuleList(nn.Linear(embedded, width) for _ in range(depth))
        self.output = nn.Linear(width, size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        # drawn last, so that the weights that both have are the same with and without labels
        self.labels = LabelEmbedding(classes, embedded) if classes else None

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Give the output, ``[batch, *dim]``.

        Args:
            x: states, ``[batch, *dim]``.
            t: times, ``[batch]`` or 0-d.
            s: second times, alike.
            label: class labels, int64 ``[batch]``, -1 where there is none; None: nowhere.
        """
        flat = x.flatten(1)
        if self.frequencies.shape[1]:
            angles = flat @ self.frequencies
            flat = torch.cat([flat, angles.cos(), angles.sin()], 1)
        embedded = embed(self, t, s, label)
        hidden = self.input(flat)
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            hidden = hidden + nn.functional.silu(layer(hidden) + modulation(embedded))
        return torch.as_tensor(self.output(hidden)).reshape(x.shape)
