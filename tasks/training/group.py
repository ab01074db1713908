"""A worker's place among those that train one network together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.training.device import CPU


def _unheard(_: Mapping[str, float]) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rank ``rank`` of ``world``; ``average`` makes a gradient, one flat vector, its mean over the group."""

    rank: int
    world: int
    average: Callable[[Tensor], None]
    device: torch.device = CPU  # that this rank computes on
    tell: Callable[[Mapping[str, float]], None] = _unheard  # hears this rank's metrics, about once a second


def alone(device: torch.device = CPU) -> Group:
    """Give the group of one worker, which needs no engine."""
    return Group(rank=0, world=1, average=lambda _: None, device=device)
