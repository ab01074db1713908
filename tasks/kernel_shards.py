"""The kernel's points where they are stored: read here leaf by leaf, or summed by Ray tasks that each hold one shard.

A leaf's rows are a map of the stored shard's file, so all processes of a node share its pages and none holds a copy.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from storage.chunks import Shard
from storage.data import DataStore
from storage.errors import DamagedError
from storage.models import StoredModel, read_model
from storage.paths import Location
from tasks.executor import Executor
from tasks.training.checkpoint import weights_from_bytes
from tasks.transport.bandwidth import leave_one_out_sums
from tasks.transport.kernel import LEAF_ROWS, Leaf, Node, Partial, Queries, gather, leaf_count, total
from tasks.transport.kernel_field import search_range, sum_range
from tasks.transport.nearest import Nearest, Reduction, nearer

Sums = TypeVar("Sums")

_BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class _Kept:
    half_square: Tensor
    reduced: Tensor | None
    label: Tensor | None


class StoredPoints:
    """The rows of a data store as leaves; norms, reduced coordinates and labels are kept, the rows are not."""

    def __init__(self, store: DataStore, reduction: Reduction) -> None:
        self.rows = store.rows
        self._store = store
        self._reduction = reduction
        self._kept: dict[int, _Kept] = {}

    def leaf(self, index: int) -> Leaf:
        """Give one leaf, whose rows are a map of the store's file where they lie in one shard."""
        rows = Shard(index * LEAF_ROWS, min((index + 1) * LEAF_ROWS, self.rows))
        x = torch.from_numpy(self._store.view(rows)).flatten(1)
        if index not in self._kept:
            labels = self._store.labels(rows)
            self._kept[index] = _Kept(
                half_square=half_square(x),
                reduced=self._reduction.reduce(x) if self._reduction.directions.shape[1] else None,
                label=None if labels is None else torch.from_numpy(labels),
            )
        kept = self._kept[index]
        return Leaf(x=x, half_square=kept.half_square, reduced=kept.reduced, label=kept.label)


def half_square(x: Tensor) -> Tensor:
    """Give |x_i|^2 / 2 of rows ``[rows, size]`` in float64, ``[rows]``, without a float64 copy of them all."""
    squares = torch.empty(len(x), dtype=torch.float64)
    for start in range(0, len(x), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        squares[part] = x[part].to(torch.float64).square().sum(1)
    return squares / 2


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A shard of points, as a range of whole leaves."""

    data: Location
    digest: str  # of the data, so that a worker notices another dataset under the same path
    velocity: Location | None  # folder of the published kernel, which has the reduction; None before there is one
    leaves: range


@dataclass(frozen=True, kw_only=True)
class SpreadPoints:
    """Points that are summed by one Ray task a shard, for data larger than a worker's memory.

    Shards are ranges of leaves; results are merged by position, whatever finishes first.
    """

    executor: Executor
    tasks: tuple[ShardTask, ...]

    def nearest(self, queries: Queries, reduced: Tensor) -> Nearest:
        """Give each query's nearest point by reduced distance."""
        found = self._each(partial(_search, queries=queries, reduced=reduced))
        nearest = found[0]
        for other in found[1:]:
            nearest = nearer(nearest, other)
        return nearest

    def sums(self, queries: Queries, reduced: Tensor | None) -> Partial:
        """Give the sums over all points."""
        return _merged(self._each(partial(_sum, queries=queries, reduced=reduced)))

    def leave_one_out(self, x: Tensor, rows: Tensor, bandwidths: Iterable[float]) -> Partial:
        """Give the leave-one-out sums over all points (:mod:`tasks.transport.bandwidth`)."""
        return _merged(self._each(partial(_leave_one_out, x=x, rows=rows, bandwidths=tuple(bandwidths))))

    def _each(self, work: Callable[[ShardTask], Sums]) -> list[Sums]:
        """Give every shard's result in the order of the shards."""
        found = dict(self.executor.map(_perform, [(k, task, work) for k, task in enumerate(self.tasks)]))
        return [found[k] for k in range(len(self.tasks))]


def spread(store: DataStore, *, velocity: Location | None, executor: Executor) -> SpreadPoints:
    """Give a data store's points in as many ranges of whole leaves as it has shards, or fewer."""
    leaves = leaf_count(store.rows)
    size = -(-leaves // store.shards.count)
    tasks = tuple(
        ShardTask(data=store.path, digest=store.digest, velocity=velocity, leaves=range(k, min(k + size, leaves)))
        for k in range(0, leaves, size)
    )
    return SpreadPoints(executor=executor, tasks=tasks)


def stored_reduction(model: StoredModel) -> Reduction:
    """Give the reduction that a published kernel holds."""
    return Reduction(directions=weights_from_bytes(model.weights)["directions"], reach=model.spec["reach"])


def no_reduction(size: int) -> Reduction:
    """Give the reduction of points that are never searched."""
    return Reduction(directions=torch.empty(size, 0), reach=0.0)


def _perform(item: tuple[int, ShardTask, Callable[[ShardTask], Sums]]) -> tuple[int, Sums]:
    index, task, work = item
    return index, work(task)


def _search(task: ShardTask, *, queries: Queries, reduced: Tensor) -> Nearest:
    return search_range(_points(task), task.leaves, queries, reduced)


def _sum(task: ShardTask, *, queries: Queries, reduced: Tensor | None) -> list[Node]:
    return sum_range(_points(task), task.leaves, queries, reduced)


def _leave_one_out(task: ShardTask, *, x: Tensor, rows: Tensor, bandwidths: tuple[float, ...]) -> list[Node]:
    return leave_one_out_sums(_points(task), task.leaves, x, rows, bandwidths)


def _merged(shards: list[list[Node]]) -> Partial:
    return total(gather(node for nodes in shards for node in nodes))


def _points(task: ShardTask) -> StoredPoints:
    return _held(task.data, task.digest, task.velocity)


@lru_cache(maxsize=2)
def _held(data: Location, digest: str, velocity: Location | None) -> StoredPoints:
    """Keep what a worker's next call on the same data needs again: norms and reduced coordinates."""
    store = DataStore(data)
    if store.digest != digest:
        raise DamagedError(f"{data} holds dataset {store.digest}, {digest} was expected; use another run name")
    size = math.prod(store.dim)
    return StoredPoints(store, no_reduction(size) if velocity is None else stored_reduction(read_model(velocity)))
