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
from storage.trajectories import Floats, TrajectoryStore

WINDOW_CHUNKS = 8


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Pairs of points of trajectories, one trajectory a row; owned by the receiver."""

    x_t: Floats  # [batch, *dim]
    x_s: Floats  # [batch, *dim]
    t: npt.NDArray[np.float64]  # [batch]
    s: npt.NDArray[np.float64]  # [batch], t < s


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
        for window, x in self._loaded():
            for visit in range(self._spec.visits):
                start = window.start + visit * window.rows
                offset = max(0, self.place.position - start) if self.place.epoch == window.epoch else 0
                if offset >= window.rows:
                    continue
                rows = self._order.visit(window.epoch, window.index, visit, rows=window.rows)
                while offset < window.rows:
                    take = min(size - filled, window.rows - offset)
                    self._fill(batch, filled, x, rows[offset : offset + take], epoch=window.epoch, start=start + offset)
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
        return PairBatch(x_t=np.empty(shape, dtype), x_s=np.empty(shape, dtype), t=np.empty(part), s=np.empty(part))

    def _fill(self, batch: PairBatch, filled: int, x: Floats, rows: Indices, *, epoch: int, start: int) -> None:
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
        batch.x_t[out] = x[mine, low]
        batch.x_s[out] = x[mine, high]
        batch.t[out] = self._times[low]
        batch.s[out] = self._times[high]

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

    def _loaded(self) -> Iterator[tuple[_Window, Floats]]:
        """Give each window with its trajectories ``[rows, times, *dim]``, valid until the next one is asked for."""
        chunk_shape = self._store.chunk_shape
        window_rows = min(WINDOW_CHUNKS * chunk_shape[0], self._order.grid.count * chunk_shape[0])
        now, later = (np.empty((window_rows, *chunk_shape[1:]), self._store.plan.dtype) for _ in range(2))
        windows = self._windows()
        with ThreadPoolExecutor(1, thread_name_prefix="read-pairs") as pool:
            coming = pool.submit(self._read, next(windows), now)
            while True:
                window, x = coming.result()
                coming = pool.submit(self._read, next(windows), later)
                yield window, x
                now, later = later, now

    def _read(self, window: _Window, out: Floats) -> tuple[_Window, Floats]:
        start = 0
        for chunk in window.chunks:
            rows = self._order.grid.chunk(int(chunk)).rows
            x = self._store.read_chunk(int(chunk))
            out[start : start + rows] = x[:rows]  # the store may span more rows than we use
            start += rows
        return window, out[:start]
