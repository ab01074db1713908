"""A worker's place among those that train one network together."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rank ``rank`` of ``world``; ``wrap`` gives a module whose gradients are averaged over the group."""

    rank: int
    world: int
    wrap: Callable[[nn.Module], nn.Module]


def alone() -> Group:
    """Give the group of one worker, which needs no engine."""
    return Group(rank=0, world=1, wrap=lambda model: model)
