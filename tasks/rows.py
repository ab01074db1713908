"""Rows of a stored dataset by number, through memory-mapped shards of which only what is asked for becomes resident."""

import math

import numpy as np
import numpy.typing as npt

from storage.data import DataStore, Labels, Values

Indices = npt.NDArray[np.int64]

_HELD_BYTES = 64 * 2**20
_FAULT_BYTES = 64 * 2**10  # that the kernel maps around a byte that is touched, where it has them in its cache


class RowReader:
    """Reads rows of any shards, and lets go of the mapped shards now and then.

    Mapped pages are shared between processes and can be had back any time, but they count as resident: without letting
    go, a process that has read everything at random would show the whole dataset as its own.

    Args:
        store: the dataset.
        held_bytes: about how much stays mapped.
    """

    def __init__(self, store: DataStore, *, held_bytes: int = _HELD_BYTES) -> None:
        self._store = store
        self._shards, self._dim = store.shards, store.dim
        self._held_bytes = held_bytes
        self._touched_bytes = max(4 * math.prod(self._dim), _FAULT_BYTES)  # by reading a row
        self._views: dict[int, Values] = {}
        self._touched = 0

    def take(self, rows: Indices) -> Values:
        """Give standardised rows in the order asked for, ``[len(rows), *dim]``, owned by the caller."""
        out = np.empty((len(rows), *self._dim), np.float32)
        shards, offsets = np.divmod(rows, self._shards.chunk_rows)
        for shard in set(shards.tolist()):
            mine = shards == shard
            out[mine] = self._view(shard)[offsets[mine]]
        self._let_go(len(rows))
        return out

    def _view(self, shard: int) -> Values:
        if shard not in self._views:
            self._views[shard] = self._store.view(self._shards.chunk(shard))
        return self._views[shard]

    def _let_go(self, rows: int) -> None:
        self._touched += rows * self._touched_bytes
        if self._touched > self._held_bytes:
            if sum(view.nbytes for view in self._views.values()) > self._held_bytes:
                self._views.clear()
            self._touched = 0


def take_labels(store: DataStore, rows: Indices) -> Labels | None:
    """Give the labels of rows in the order asked for, int64 ``[len(rows)]``; None for an unlabelled dataset."""
    out = np.empty(len(rows), np.int64)
    shards, offsets = np.divmod(rows, store.shards.chunk_rows)
    for shard in np.unique(shards):
        labels = store.labels(store.shards.chunk(int(shard)))
        if labels is None:
            return None
        mine = shards == shard
        out[mine] = labels[offsets[mine]]
    return out
