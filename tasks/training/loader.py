"""Batches for velocity matching: one global order, the same for any number of workers, each reading its own shards.

Whole stored shards make up *streams*, whose number depends on the dataset and the batch alone. Stream k walks without
end through permutations of its rows, and every global batch is equal parts of all streams. Rank r serves the streams
k with k % world == r. What a stream adds to a batch is a function of (seed, step, k), so the batch is the same for
every number of workers that divides the number of streams.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.chunks import ChunkGrid, Shard
from storage.data import DataStore
from storage.errors import InputError
from storage.ordering import Indices, permutation
from tasks.rows import RowReader
from tasks.specs import Workers
from tasks.training.group import Group
from tasks.transport.interpolant import Interpolant
from tasks.transport.losses import denoiser_matching_loss
from tasks.transport.noise import TRAINING, UNLABELLED

Floats = npt.NDArray[np.floating[Any]]

_MATCHING, _TURN = 0, 3  # last word of the counter; 1 and 2 are the generator's times and dropout


@dataclass(frozen=True, kw_only=True)
class MatchingBatch:
    """What velocity matching is fitted to."""

    t: Tensor  # [batch], uniform on [0, T); the global batch has one in each of as many equal parts as it has rows
    x0: Tensor  # [batch, *dim], noise
    x1: Tensor  # [batch, *dim], data
    weight: Tensor  # [batch], of a row's loss: streams are equally long in the batch, and not always in the data
    label: Tensor | None  # [batch] int64, -1 where there is none or it is hidden; None: no labels are used


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What determines the batches of a dataset."""

    seed: int
    batch_size: int  # global
    stop: float  # T, the end of the times
    label_dropout: float | None  # share of the labels that are hidden; None: no labels are used


def stream_grid(shards: ChunkGrid, *, batch_size: int) -> ChunkGrid:
    """Give the rows of each stream: the most streams of equally many whole shards that divide the batch evenly.

    The last one may have fewer shards. Eight shards and a batch of 1,024 make eight streams.
    """
    grids = (
        (count, ChunkGrid(shards.rows, -(-shards.count // count) * shards.chunk_rows))
        for count in range(min(shards.count, batch_size), 0, -1)
        if batch_size % count == 0
    )
    return next(grid for count, grid in grids if grid.count == count)


def require_divisible(store: DataStore, *, batch_size: int, workers: Workers, section: str = "velocity") -> None:
    """Raise unless the streams can be dealt evenly to so many workers; of [least, most] some sit out.

    Raises:
        InputError: they cannot; the section of the configuration is named.
    """
    count = stream_grid(store.shards, batch_size=batch_size).count
    if isinstance(workers, int) and count % workers:
        raise InputError(
            f"{section}.workers must divide {count}, the streams of equal size that dataset.shards "
            f"({store.shards.count} stored) and {section}.batch_size ({batch_size}) make, got {workers}"
        )


def matching_batches(store: DataStore, draw: Draw, *, step: int, group: Group) -> Iterator[MatchingBatch]:
    """Give this rank's part of every global batch from optimiser step ``step`` on, without end.

    Beside a GPU the streams' parts are drawn side by side, on the processor's other cores.

    Raises:
        InputError: the streams cannot be dealt evenly to the group.
    """
    require_divisible(store, batch_size=draw.batch_size, workers=group.world)
    grid = stream_grid(store.shards, batch_size=draw.batch_size)
    mine, size = range(group.rank, grid.count, group.world), draw.batch_size // grid.count
    streams = [_Stream(store, draw, rows=grid.chunk(k), index=k, size=size) for k in mine]
    weight = torch.tensor([grid.chunk(k).rows * grid.count / store.rows for k in mine]).repeat_interleave(size)
    index = np.repeat(np.array(mine), size)  # stream of each of our rows, [batch]
    place = np.tile(np.arange(size), len(mine))  # and which of the stream's it is
    latest = np.nextafter(np.float32(draw.stop), np.float32(0))  # rounding must not reach the end
    reader, dim, is_labelled = RowReader(store), store.dim, draw.label_dropout is not None
    parts = [slice(k * size, (k + 1) * size) for k in range(len(streams))]
    with _side_by_side(len(streams) if group.device.type == "cuda" else 1) as each:
        while True:
            x0, share = np.empty((len(index), *dim), np.float32), np.empty(len(index))
            rows, label = np.empty(len(index), np.int64), np.empty(len(index) if is_labelled else 0, np.int64)
            list(each(partial(_fill_part, step, x0, share, rows, label), streams, parts))
            # The batch's times have one in each of its equal parts; streams take turns, so that none keeps to some.
            turn = int(_philox(draw.seed, step, 0, _TURN).random_raw() % grid.count)
            t = draw.stop * (place * grid.count + (index + turn) % grid.count + share) / draw.batch_size
            yield MatchingBatch(
                t=torch.from_numpy(np.minimum(t.astype(np.float32), latest)),
                x0=torch.from_numpy(x0),
                x1=torch.from_numpy(reader.take(rows)),
                weight=weight,
                label=torch.from_numpy(label) if is_labelled else None,
            )
            step += 1


def matching_rows(store: DataStore, draw: Draw, *, step: int, group: Group) -> Indices:
    """Give the rows of the data of this rank's part of one global batch, ``[batch]``."""
    grid = stream_grid(store.shards, batch_size=draw.batch_size)
    size = draw.batch_size // grid.count
    mine = range(group.rank, grid.count, group.world)
    return np.concatenate([_Stream(store, draw, rows=grid.chunk(k), index=k, size=size).rows(step) for k in mine])


def matching_loss(
    denoiser: Callable[[Tensor, Tensor, Tensor | None], Tensor], interpolant: Interpolant, *, data_std: float
) -> Callable[[MatchingBatch], Tensor]:
    """Give the loss of a batch: of each row, ``[batch]``, the mean over dimensions, on the batch's device.

    Args:
        denoiser: gives E[x1 | x_t, label] for ``(t, x_t, label)``.
        interpolant: of the times.
        data_std: standard deviation of the data in its units.
    """

    def loss(batch: MatchingBatch) -> Tensor:
        rows = denoiser_matching_loss(
            lambda t, x_t: torch.as_tensor(denoiser(t, x_t, batch.label)),
            interpolant=interpolant,
            t=batch.t,
            x0=batch.x0,
            x1=batch.x1,
            data_std=data_std,
        )
        return batch.weight * rows / batch.x1[0].numel()

    return loss


class _Stream:
    """Stream ``index`` over consecutive ``rows`` of the dataset, ``size`` of them in a batch."""

    def __init__(self, store: DataStore, draw: Draw, *, rows: Shard, index: int, size: int) -> None:
        self._draw = draw
        self._rows = rows
        self._index, self._size = index, size
        self._labels = store.labels(rows) if draw.label_dropout is not None else None
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def fill(self, step: int, x0: Floats, share: Floats, rows: Indices, label: Indices) -> None:
        """Fill in this stream's part of a step's batch: noise, where in their parts times lie, rows, labels if any."""
        rng = np.random.Generator(_philox(self._draw.seed, step, self._index, _MATCHING))
        rng.standard_normal(dtype=np.float32, out=x0)
        rng.random(out=share)
        rows[:] = self.rows(step)
        if self._labels is not None and self._draw.label_dropout is not None:
            is_hidden = rng.random(self._size) < self._draw.label_dropout
            label[:] = np.where(is_hidden, UNLABELLED, self._labels[rows - self._rows.start])

    def rows(self, step: int) -> Indices:
        """Give the rows of the data in this stream's part of a step's batch."""
        return self._rows.start + self._places(step * self._size)

    def _places(self, start: int) -> Indices:
        """Give positions ``start ...`` of the endless concatenation of the epochs' permutations, a part's worth."""
        parts: list[Indices] = []
        missing = self._size
        while missing:
            epoch, offset = divmod(start, self._rows.rows)
            if epoch != self._epoch:
                self._order = permutation(self._draw.seed, epoch, self._index, rows=self._rows.rows)
                self._epoch = epoch
            parts.append(self._order[offset : offset + missing])
            start += len(parts[-1])
            missing -= len(parts[-1])
        return np.concatenate(parts)


def _fill_part(
    step: int, x0: Floats, share: Floats, rows: Indices, label: Indices, stream: _Stream, part: slice
) -> None:
    stream.fill(step, x0[part], share[part], rows[part], label[part])


@contextmanager
def _side_by_side(threads: int) -> Iterator[Callable[..., Iterator[None]]]:
    """Give a ``map`` over so many threads; numpy's generators let go of the interpreter."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="draw-parts") as pool:
        yield pool.map


def _philox(seed: int, step: int, stream: int, use: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([seed, TRAINING], np.uint64), counter=[0, step, stream, use])
