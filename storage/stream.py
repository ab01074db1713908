"""Stored trajectories as an endless stream of training pairs, the same for any number of readers.

The order is that of storage/ordering.py. Background threads read the next window's chunks, each at once, into one of
two buffers while the present one is used. Over a store that still grows they also wait for an epoch's chunks.
They begin as soon as no batch is asked for: a training that draws several in a row shall do so undisturbed, and be back
in its step. Whoever asks on and on has each window read at once.
"""

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from storage.admissions import Admissions, Growth
from storage.arrays import empty_on_page
from storage.errors import InputError, StreamConflictError
from storage.fingerprint import fingerprint
from storage.ordering import Indices, Order, Stretch, Window, pair_indices, part
from storage.trajectories import Floats, Labels, TrajectoryStore

WINDOW_CHUNKS = 8
_READERS = 2  # threads: one reads while the other checks
_PAUSE_SECONDS = 0.002  # without a batch being asked for


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
    """Where a stream stands, and in which order over what: ``position`` pairs of its epoch are behind it."""

    seed: int
    epoch: int
    position: int
    manifest: (
        str  # fingerprint of the manifest of a seal over just the stream's rows; without its digest where it grows
    )


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Which pairs a stream gives."""

    rows: int  # the first rows of the store
    batch_size: int  # global, over all ranks
    seed: int
    visits: int  # pairs of a row in an epoch
    full_span_share: float


class PairStream:
    """The pairs of one rank, without end.

    Args:
        store: a store sealed over the rows, or one that grows to them.
        spec: the global order.
        rank: which part of every global batch is ours.
        world: number of parts; divides the batch.
        place: where to go on, of a stream of the same order; None: at the beginning.
        growth: how a growing store is read; None: it is sealed.

    Raises:
        IncompleteError: the store is not sealed over the rows.
        InputError: the batch cannot be divided.
        StreamConflictError: the place is of another seed, or of other trajectories, or in an epoch without a record.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        spec: StreamSpec,
        *,
        rank: int,
        world: int,
        place: Place | None = None,
        growth: Growth | None = None,
    ) -> None:
        manifest = fingerprint(asdict(store.sealed(spec.rows)) if growth is None else store.promised(spec.rows))
        if spec.batch_size % world:
            raise InputError(f"generator.batch_size must be a multiple of {world} workers, got {spec.batch_size}")
        start = Place(seed=spec.seed, epoch=0, position=0, manifest=manifest)
        _require_same_order(place or start, start, store=store)
        self._store = store
        self._spec = spec
        self._order = Order(grid=store.grid(spec.rows), seed=spec.seed, window=WINDOW_CHUNKS, visits=spec.visits)
        self._growth = growth
        self._times = np.asarray(store.plan.times, dtype=np.float64)
        self._rank, self._world = rank, world
        self.place = place or start  # of the next global batch
        admissions = self._admissions()
        if admissions is not None and self.place != start:
            admissions.require_recorded(self.place.epoch)

    def __iter__(self) -> Iterator[PairBatch]:
        """Give this rank's part of each global batch from :attr:`place` on; ``place`` then names the next one.

        Raises:
            HaltedError: the store grows no more and is not sealed.
            DamagedError: a chunk fails its checksum, or a record of the growth is none.
        """
        place, admissions = self.place, self._admissions()
        order = replace(self._order, admitted=admissions)
        with ExitStack() as stack:
            windows = stack.enter_context(_Windows(self._store, order, place))
            if admissions is not None:
                stack.enter_context(admissions)  # left first: who waits for chunks holds up the end of the reading
            for stretches in order.batches(place.epoch, place.position, size=self._spec.batch_size):
                if admissions is not None:
                    admissions.watch()
                batch, filled = self._empty(), 0
                for stretch in part(stretches, rank=self._rank, world=self._world):
                    self._fill(batch, filled, windows.loaded(stretch.window), stretch)
                    filled += len(stretch.rows)
                last = stretches[-1]
                self.place = replace(place, epoch=last.window.epoch, position=last.start + len(last.rows))
                yield batch

    def rows_at(self, place: Place) -> Indices:
        """Give the trajectories of this rank's part of the global batch that begins at a place, ``[batch]``."""
        order = replace(self._order, admitted=self._admissions())
        stretches = next(order.batches(place.epoch, place.position, size=self._spec.batch_size))
        mine = part(stretches, rank=self._rank, world=self._world)
        return np.concatenate([stretch.store_rows(self._store.plan.chunk_rows) for stretch in mine])

    def _admissions(self) -> Admissions | None:
        if self._growth is None:
            return None
        return Admissions(self._store, self._growth, rows=self._spec.rows, visits=self._spec.visits)

    def _empty(self) -> PairBatch:
        rows, plan = self._spec.batch_size // self._world, self._store.plan
        return PairBatch(
            x_t=np.empty((rows, *plan.dim), plan.dtype),
            x_s=np.empty((rows, *plan.dim), plan.dtype),
            t=np.empty(rows),
            s=np.empty(rows),
            label=np.empty(rows, np.int64) if plan.is_conditional else None,
        )

    def _fill(self, batch: PairBatch, filled: int, loaded: "_Buffer", stretch: Stretch) -> None:
        """Copy the pairs of a stretch into the batch, from row ``filled`` on."""
        rows = stretch.rows
        times = len(self._times)
        low, high = pair_indices(
            self._spec.seed,
            stretch.window.epoch,
            stretch.start,
            stretch.start + len(rows),
            times=times,
            full_span_share=self._spec.full_span_share,
        )
        out = slice(filled, filled + len(rows))
        points = loaded.x.reshape(-1, *loaded.x.shape[2:])  # [rows * times, *dim]
        # take with one index copies a point at once, six times as fast as indexing with two; its other modes than
        # "raise" need no second buffer
        points.take(rows * times + low, axis=0, out=batch.x_t[out], mode="clip")
        points.take(rows * times + high, axis=0, out=batch.x_s[out], mode="clip")
        batch.t[out] = self._times[low]
        batch.s[out] = self._times[high]
        if batch.label is not None and loaded.label is not None:
            batch.label[out] = loaded.label[rows]


def _require_same_order(place: Place, ours: Place, *, store: TrajectoryStore) -> None:
    if place.seed != ours.seed:
        raise StreamConflictError(f"the stream of seed {ours.seed} cannot go on from a place of seed {place.seed}")
    if place.manifest != ours.manifest:
        raise StreamConflictError(
            f"the stream cannot go on from a place in other trajectories than those of {store.path}: "
            f"their manifest is {place.manifest[:12]}, here it is {ours.manifest[:12]}"
        )


@dataclass(frozen=True, kw_only=True)
class _Buffer:
    """Room for the trajectories of a window, and for their labels if they have any."""

    x: Floats  # [rows, times, *dim]
    label: Labels | None  # [rows]


class _Windows:
    """The windows of an order from a place on, read one ahead; leaving ends the reading."""

    def __init__(self, store: TrajectoryStore, order: Order, place: Place) -> None:
        rows = min(order.window, order.grid.count) * store.plan.chunk_rows
        self._store = store
        self._coming = order.windows(place.epoch, place.position)
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="read-pairs")
        self._now, self._later = (
            _Buffer(
                x=empty_on_page((rows, *store.chunk_shape[1:]), store.plan.dtype),
                label=np.empty(rows, np.int64) if store.plan.is_conditional else None,
            )
            for _ in range(2)
        )
        self._window: Window | None = None  # in the present buffer
        self._asked = -math.inf  # when a window was last asked for, on the monotonic clock
        self._is_awaited = threading.Event()  # the next window is
        self._is_hurried = False  # one was before there was a pause
        self._next = self._pool.submit(self._begin, self._later)

    def __enter__(self) -> "_Windows":
        """Give the windows themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Read no more."""
        self._pool.shutdown(cancel_futures=True)

    def loaded(self, window: Window) -> _Buffer:
        """Give the present window or a later one, valid until one after it is asked for."""
        while self._window is None or (self._window.epoch, self._window.index) != (window.epoch, window.index):
            self._is_awaited.set()
            coming, reads = self._next.result()
            for read in reads:
                read.result()
            self._is_awaited.clear()
            self._window, self._now, self._later = coming, self._later, self._now
            self._next = self._pool.submit(self._begin, self._later)
        self._asked = time.monotonic()
        return self._now

    def _begin(self, out: _Buffer) -> tuple[Window, list[Future[None]]]:
        """Begin to read the next window, after a pause; it may have to be waited for."""
        while not self._is_hurried and time.monotonic() - self._asked < _PAUSE_SECONDS:
            self._is_hurried = self._is_awaited.wait(_PAUSE_SECONDS)
        window = next(self._coming)
        return window, [self._pool.submit(self._read, int(chunk), k, out) for k, chunk in enumerate(window.chunks)]

    def _read(self, chunk: int, k: int, out: _Buffer) -> None:
        """Read a chunk, the window's k-th: only the last of a window may be short, so none lies on another."""
        size = self._store.plan.chunk_rows
        mine = slice(k * size, (k + 1) * size)
        self._store.read_chunk(chunk, out=out.x[mine])
        if out.label is not None:
            self._store.read_labels(chunk, out=out.label[mine])
