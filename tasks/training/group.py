"""A worker's place among those that train one network together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rank ``rank`` of ``world``; ``average`` makes gradients their means over the group."""

    rank: int
    world: int
    average: Callable[[Sequence[Tensor]], None]


def alone() -> Group:
    """Give the group of one worker, which needs no engine."""
    return Group(rank=0, world=1, average=lambda _: None)
