"""Batches for velocity matching: data of a rank's own shards, noise and times as functions of (seed, step, rank)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from storage.data import DataStore
from storage.errors import InputError
from storage.ordering import permutation
from tasks.training.group import Group
from tasks.transport.noise import TRAINING


@dataclass(frozen=True, kw_only=True)
class MatchingBatch:
    """What velocity matching is fitted to."""

    t: Tensor  # [batch], uniform on [0, T), one in each of ``batch`` equal parts
    x0: Tensor  # [batch, *dim], noise
    x1: Tensor  # [batch, *dim], data


def read_rank_rows(store: DataStore, group: Group) -> Tensor:
    """Give the rows of every ``world``-th shard, from shard ``rank`` on, ``[rows, *dim]``.

    Raises:
        InputError: there are fewer shards than workers.
    """
    shards = store.shards
    if shards.count < group.world:
        raise InputError(
            f"dataset.shards must be at least velocity.workers ({group.world}), got {shards.count} of {store.rows} rows"
        )
    mine = [store.read(shards.chunk(index)) for index in range(group.rank, shards.count, group.world)]
    return torch.from_numpy(np.concatenate(mine))


def matching_batches(
    data: Tensor, *, seed: int, step: int, batch_size: int, stop: float, group: Group
) -> Iterator[MatchingBatch]:
    """Give this rank's batches from optimiser step ``step`` on, without end.

    Rows come in the order of one permutation an epoch; a batch may span two of them.

    Args:
        data: the rank's rows, ``[rows, *dim]``.
        seed: of everything drawn.
        step: the first step.
        batch_size: global; divided by the group's size.
        stop: T, the end of the times.
        group: who we are.
    """
    size = batch_size // group.world
    latest = torch.nextafter(torch.tensor(stop), torch.tensor(0.0))  # rounding must not reach the end
    while True:
        rows = _rows(seed, group.rank, step * size, size, total=len(data))
        rng = np.random.Generator(
            np.random.Philox(key=np.array([seed, TRAINING], np.uint64), counter=[0, step, group.rank, 0])
        )
        x0 = torch.from_numpy(rng.standard_normal((size, *data.shape[1:]), dtype=np.float32))
        strata = (torch.arange(size) + torch.from_numpy(rng.random(size, dtype=np.float32))) / size
        yield MatchingBatch(t=torch.minimum(stop * strata, latest), x0=x0, x1=data[rows])
        step += 1


def _rows(seed: int, rank: int, start: int, size: int, *, total: int) -> Tensor:
    """Give positions ``start ... start + size`` of the endless concatenation of the epochs' permutations."""
    parts = []
    while size:
        epoch, offset = divmod(start, total)
        part = permutation(seed, epoch, rank, rows=total)[offset : offset + size]
        parts.append(part)
        start += len(part)
        size -= len(part)
    return torch.from_numpy(np.concatenate(parts))
