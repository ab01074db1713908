"""What a network is told beside the state, as one vector: its times and its class label."""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

_LABEL_STD = 0.2  # about that of a fresh time embedding, so that labels count from the first step


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


class LabelEmbedding(nn.Module):
    """Embed class labels as ``[batch, size]``: row k + 1 of the table is class k, row 0 means "no label".

    A fresh row 0 is zero, so without a label a fresh network is the one that knows no labels.

    Args:
        classes: number of classes.
        size: width of the embedding.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + 1, size)
        nn.init.normal_(self.table.weight, std=_LABEL_STD)
        nn.init.zeros_(self.table.weight[0])

    def forward(self, label: Tensor | None) -> Tensor:
        """Give ``[batch, size]`` for ``label [batch]``, -1 where there is none; None gives ``[1, size]``."""
        return self.table.weight[:1] if label is None else torch.as_tensor(self.table(label + 1))


class Conditioned(Protocol):
    """A backbone with its embeddings; the absent ones are None."""

    time: TimeEmbedding
    second_time: TimeEmbedding | None
    labels: LabelEmbedding | None


def silent_embedding(size: int) -> TimeEmbedding:
    """Give an embedding of the second time that is zero until trained, so that adding it changes nothing."""
    embedding = TimeEmbedding(size)
    nn.init.zeros_(embedding.output.weight)
    nn.init.zeros_(embedding.output.bias)
    return embedding


def embed(net: Conditioned, t: Tensor, s: Tensor | None, label: Tensor | None) -> Tensor:
    """Give the sum of a backbone's embeddings, ``[batch, size]``, or ``[1, size]`` where all rows are told the same."""
    embedded = net.time(t)
    if net.second_time is not None and s is not None:
        embedded = embedded + net.second_time(s)
    if net.labels is not None:
        embedded = embedded + net.labels(label)
    return torch.as_tensor(embedded)
