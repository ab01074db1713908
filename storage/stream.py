"""Stored trajectories as an endless stream of training pairs, the same for any number of readers.

The global batch is a stretch of the global order (storage/ordering.py); rank r takes the r-th of its equal parts.
A background thread reads the next window of chunks into one of two buffers while the present one is used.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.errors import IncompleteError, InputError
from storage.ordering import Indices, Order, pair_indices
from storage.trajectories import Floats, Labels, TrajectoryStore

WINDOW_CHUNKS = 8


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Pairs of points of trajectories, one trajectory a row; owned by the receiver."""

    x_t: Floats  # [batch, *dim]
    x_s: Floats  # [batch, *dim]
    t: npt.NDArray[np.float64]  # [batch]
    s: npt.NDArray[np.float64]  # [batch], t < s
    label: Labels | None = None  # [batch], of the trajectory; -1: none; None where the store has no labels


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stream stands: ``position`` pairs of an epoch are behind it."""

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Which pairs a stream gives."""

    rows: int  # the first rows of the store
    batch_size: int  # global, over all ranks
    seed: int
    visits: int  # pairs of a row in an epoch
    full_span_share: float


@dataclass(frozen=True, kw_only=True)
class _Window:
    epoch: int
    index: int
    chunks: Indices
    start: int  # its first position in the epoch
    rows: int


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Trajectories in memory, and their labels if they have any."""

    x: Floats  # [rows, times, *dim]
    label: Labels | None  # [rows]


class PairStream:
    """The pairs of one rank, without end.

    Args:
        store: a store sealed over the rows.
        spec: the global order.
        rank: which part of every global batch is ours.
        world: number of parts; divides the batch.
        place: where to go on.

    Raises:
        IncompleteError: the store is not sealed over the rows.
        InputError: the batch cannot be divided.
    """

    def __init__(self, store: TrajectoryStore, spec: StreamSpec, *, rank: int, world: int, place: Place) -> None:
        manifest = store.ledger.manifest()
        if manifest is None or manifest.rows < spec.rows:
            sealed = "not sealed" if manifest is None else f"sealed over {manifest.rows} rows"
            raise IncompleteError(f"{store.path} is {sealed}, asked for {spec.rows}; run the integrate step first")
        if spec.batch_size % world:
            raise InputError(f"generator.batch_size must be a multiple of {world} workers, got {spec.batch_size}")
        self._store = store
        self._spec = spec
        self._order = Order(grid=store.grid(spec.rows), seed=spec.seed, window=WINDOW_CHUNKS, visits=spec.visits)
        self._times = np.asarray(store.plan.times, dtype=np.float64)
        part = spec.batch_size // world
        self._mine = (rank * part, (rank + 1) * part)
        self.place = place  # of the next global batch

    def __iter__(self) -> Iterator[PairBatch]:
        """Give this rank's part of each global batch from :attr:`place` on; ``place`` then names the next one."""
        size = self._spec.batch_size
        batch, filled = self._empty(), 0
        for window, loaded in self._loaded():
            for visit in range(self._spec.visits):
                start = window.start + visit * window.rows
                offset = max(0, self.place.position - start) if self.place.epoch == window.epoch else 0
                if offset >= window.rows:
                    continue
                rows = self._order.visit(window.epoch, window.index, visit, rows=window.rows)
                while offset < window.rows:
                    take = min(size - filled, window.rows - offset)
                    taken = rows[offset : offset + take]
                    self._fill(batch, filled, loaded, taken, epoch=window.epoch, start=start + offset)
                    filled += take
                    offset += take
                    if filled == size:
                        self.place = Place(epoch=window.epoch, position=start + offset)
                        yield batch
                        batch, filled = self._empty(), 0

    def _empty(self) -> PairBatch:
        part = self._mine[1] - self._mine[0]
        shape = (part, *self._store.plan.dim)
        dtype = self._store.plan.dtype
        return PairBatch(
            x_t=np.empty(shape, dtype),
            x_s=np.empty(shape, dtype),
            t=np.empty(part),
            s=np.empty(part),
            label=self._empty_labels(part),
        )

    def _empty_labels(self, rows: int) -> Labels | None:
        return np.empty(rows, np.int64) if self._store.plan.is_conditional else None

    def _fill(self, batch: PairBatch, filled: int, loaded: _Rows, rows: Indices, *, epoch: int, start: int) -> None:
        """Copy what is ours of ``rows``, which are positions ``filled ...`` of the global batch."""
        first = max(filled, self._mine[0])
        last = min(filled + len(rows), self._mine[1])
        if first >= last:
            return
        low, high = pair_indices(
            self._spec.seed,
            epoch,
            start + first - filled,
            start + last - filled,
            times=len(self._times),
            full_span_share=self._spec.full_span_share,
        )
        mine = rows[first - filled : last - filled]
        out = slice(first - self._mine[0], last - self._mine[0])
        batch.x_t[out] = loaded.x[mine, low]
        batch.x_s[out] = loaded.x[mine, high]
        batch.t[out] = self._times[low]
        batch.s[out] = self._times[high]
        if batch.label is not None and loaded.label is not None:
            batch.label[out] = loaded.label[mine]

    def _windows(self) -> Iterator[_Window]:
        """Give the windows from :attr:`place` on; those that are behind it are not read."""
        epoch, place = self.place.epoch, self.place
        while True:
            start = 0
            for index, chunks in enumerate(self._order.windows(epoch)):
                rows = self._order.window_rows(chunks)
                end = start + rows * self._spec.visits
                if epoch > place.epoch or end > place.position:
                    yield _Window(epoch=epoch, index=index, chunks=chunks, start=start, rows=rows)
                start = end
            epoch += 1

    def _loaded(self) -> Iterator[tuple[_Window, _Rows]]:
        """Give each window with its trajectories, valid until the next one is asked for."""
        chunk_shape = self._store.chunk_shape
        window_rows = min(WINDOW_CHUNKS * chunk_shape[0], self._order.grid.count * chunk_shape[0])
        now, later = (
            _Rows(
                x=np.empty((window_rows, *chunk_shape[1:]), self._store.plan.dtype),
                label=self._empty_labels(window_rows),
            )
            for _ in range(2)
        )
        windows = self._windows()
        with ThreadPoolExecutor(1, thread_name_prefix="read-pairs") as pool:
            coming = pool.submit(self._read, next(windows), now)
            while True:
                window, loaded = coming.result()
                coming = pool.submit(self._read, next(windows), later)
                yield window, loaded
                now, later = later, now

    def _read(self, window: _Window, out: _Rows) -> tuple[_Window, _Rows]:
        start = 0
        for chunk in window.chunks:
            rows = self._order.grid.chunk(int(chunk)).rows  # the store may span more rows than we use
            out.x[start : start + rows] = self._store.read_chunk(int(chunk))[:rows]
            if out.label is not None:
                out.label[start : start + rows] = self._store.read_labels(int(chunk))[:rows]
            start += rows
        return window, _Rows(x=out.x[:start], label=None if out.label is None else out.label[:start])
