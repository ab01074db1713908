"""The global order of a training, as pure functions of (seed, epoch, position).

Block shuffle: chunks are permuted, gathered into windows of a few chunks, and rows are permuted inside a window, once
for each visit. So a reader holds one window in memory, reads every chunk once an epoch, and knows every position's row
without having drawn those before it. A global batch is a stretch of the positions, across the ends of windows and
epochs; rank r takes the r-th of its equal parts. Nothing else here depends on the number of readers.

Over a store that still grows an epoch covers the chunks that were admitted to it: one more argument of the order, kept
by whoever asks (admissions.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from storage.chunks import ChunkGrid

Indices = npt.NDArray[np.int64]

_CHUNKS, _ROWS, _PAIRS, _DATA = 1, 2, 3, 4  # streams of the counter-based generator
_BLOCK = 4096  # positions whose pairs are drawn at once: a few hundred take nearly as long
_UNUSED = np.random.SeedSequence(0)  # a generator that gets no seed asks the system for one, however it goes on


@dataclass(frozen=True, kw_only=True)
class Window:
    """Chunks that are shuffled together, and where they come in an epoch."""

    epoch: int
    index: int
    start: int  # its first position
    chunks: Indices  # ascending, so that a short last chunk of the store is the last here as well
    rows: int  # of these chunks


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive positions of one epoch, inside one visit to a window."""

    window: Window
    start: int  # its first position
    rows: Indices  # of each position, counted from the window's first row

    def cut(self, first: int, last: int) -> "Stretch":
        """Give positions ``first <= p < last`` of the stretch, counted from its own start."""
        return replace(self, start=self.start + first, rows=self.rows[first:last])

    def store_rows(self, chunk_rows: int) -> Indices:
        """Give the rows of the store that come at these positions, where a chunk has ``chunk_rows``."""
        chunk, row = np.divmod(self.rows, chunk_rows)
        return self.window.chunks[chunk] * chunk_rows + row


@dataclass(frozen=True, kw_only=True)
class Order:
    """How an epoch visits the rows of a store.

    Attributes:
        grid: the store's chunks.
        seed: of the permutations and the pairs.
        window: chunks that are shuffled together.
        visits: how often each row comes up in an epoch, each time with another pair.
        admitted: gives the chunks of an epoch, ascending, the same whenever it is asked; None: all of them.
    """

    grid: ChunkGrid
    seed: int
    window: int
    visits: int
    admitted: Callable[[int], Indices] | None = None

    def __post_init__(self) -> None:
        if self.window < 1 or self.visits < 1 or self.grid.rows < 1:
            raise ValueError(f"an order needs rows, window and visits of at least 1, got {self}")

    def windows(self, epoch: int, position: int) -> Iterator[Window]:
        """Give the windows that hold a position or later ones, in reading order, epoch after epoch without end."""
        while True:
            admitted = np.arange(self.grid.count) if self.admitted is None else self.admitted(epoch)
            chunks = _rng(self.seed, _CHUNKS, epoch).permutation(admitted)
            start = 0
            for index, first in enumerate(range(0, len(chunks), self.window)):
                mine = np.sort(chunks[first : first + self.window])
                rows = sum(self.grid.chunk(int(chunk)).rows for chunk in mine)
                if start + rows * self.visits > position:
                    yield Window(epoch=epoch, index=index, start=start, chunks=mine, rows=rows)
                start += rows * self.visits
            epoch, position = epoch + 1, 0

    def batches(self, epoch: int, position: int, *, size: int) -> Iterator[list[Stretch]]:
        """Give the batches of ``size`` positions from a position on, without end, each as its stretches in order."""
        batch: list[Stretch] = []
        missing = size
        for visit in self._visits(epoch, position):
            used, length = 0, len(visit.rows)
            while used < length:
                take = min(missing, length - used)
                batch.append(visit.cut(used, used + take))
                used += take
                missing -= take
                if missing == 0:
                    yield batch
                    batch, missing = [], size

    def _visits(self, epoch: int, position: int) -> Iterator[Stretch]:
        """Give the visits from a position on, the first without what lies before."""
        for window in self.windows(epoch, position):
            for visit in range(self.visits):
                start = window.start + visit * window.rows
                behind = max(0, position - start) if window.epoch == epoch else 0
                if behind < window.rows:
                    rng = _rng(self.seed, _ROWS, window.epoch, window.index, visit)
                    whole = Stretch(window=window, start=start, rows=rng.permutation(window.rows))
                    yield whole.cut(behind, window.rows)


def admit(committed: Indices, *, grid: ChunkGrid, visits: int, start: int, until: int) -> Indices | None:
    """Give the chunks of an epoch that begins at position ``start`` of a training, or None where it has to wait.

    An epoch over a part of the store ends before position ``until``, from which on epochs cover all of it. At a share
    of the way to there it has at least that share of the chunks, so that no few rows are repeated for want of others.
    Where it has room for fewer than are committed it takes those that come last, which were admitted least.

    Args:
        committed: the chunks of the grid that are, ascending.
        grid: all chunks.
        visits: how often each row comes up in an epoch.
        start: positions before the epoch, over all epochs.
        until: position from which on all chunks are needed.
    """
    if len(committed) == grid.count:
        return committed
    room = (until - start) // (grid.chunk_rows * visits)
    if room < 1 or len(committed) < max(1, -(-grid.count * start // until)):
        return None
    return committed[-room:]


def part(batch: list[Stretch], *, rank: int, world: int) -> list[Stretch]:
    """Give the rank's one of the ``world`` equal parts of a batch, as its stretches in order."""
    size = sum(len(stretch.rows) for stretch in batch) // world
    first, found = -rank * size, []  # of each stretch, counted from the part's first row
    for stretch in batch:
        last = first + len(stretch.rows)
        if first < size and last > 0:
            found.append(stretch.cut(max(0, -first), min(size, last) - first))
        first = last
    return found


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, rank: int, *, rows: int) -> Indices:
    """Give the order in which a rank goes through its ``rows`` rows of data in an epoch; do not write into it."""
    return _rng(seed, _DATA, epoch, rank).permutation(rows)


def pair_indices(
    seed: int, epoch: int, start: int, stop: int, *, times: int, full_span_share: float
) -> tuple[Indices, Indices]:
    """Give the time indices ``k < l`` of the pairs at positions ``start <= p < stop`` of an epoch, each ``[rows]``.

    A share of the pairs spans the whole path, (0, times - 1), which is the pair that sampling uses; the others are two
    distinct uniform indices, sorted. That is the law of the paper's empirical risk (arXiv 2405.05512, eq. 2.11) over
    all stored times with its diagonal, where a generator with g(t, t, x) = x has no error, left out.
    """
    first, last = start // _BLOCK, max(start, stop - 1) // _BLOCK
    blocks = [_pair_block(seed, epoch, block, times, full_span_share) for block in range(first, last + 1)]
    low, high = blocks[0] if first == last else (np.concatenate(indices) for indices in zip(*blocks, strict=True))
    mine = slice(start - first * _BLOCK, stop - first * _BLOCK)
    return low[mine], high[mine]


@lru_cache(maxsize=2)
def _pair_block(seed: int, epoch: int, block: int, times: int, full_span_share: float) -> tuple[Indices, Indices]:
    """Give the pairs of positions ``block * _BLOCK <= p < (block + 1) * _BLOCK``, not to be written into."""
    words = _words(seed, _PAIRS, counter=(block * _BLOCK, epoch), count=4 * _BLOCK)
    one, another, span, _ = words.reshape(-1, 4).T  # position p reads counter p alone
    first = _below(one, times)
    second = first + 1 + _below(another, times - 1)
    second[second >= times] -= times  # a division takes as long as all else
    low, high = np.minimum(first, second), np.maximum(first, second)
    is_full = _unit(span) < full_span_share
    low[is_full], high[is_full] = 0, times - 1
    low.flags.writeable = high.flags.writeable = False
    return low, high


def _rng(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=path)))


def _words(seed: int, stream: int, *, counter: tuple[int, int], count: int) -> npt.NDArray[np.uint64]:
    """Give 64-bit words of the counter-based generator under the key (seed, stream), four a counter."""
    generator = np.random.Philox(_UNUSED)
    state = generator.state
    state["state"]["key"][:] = seed, stream
    state["state"]["counter"][:] = *counter, 0, 0
    generator.state = state
    return generator.random_raw(count)


def _below(words: npt.NDArray[np.uint64], bound: int) -> Indices:
    """Map words to integers in [0, bound); the bias is below bound / 2^53."""
    return (_unit(words) * bound).astype(np.int64)


def _unit(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    unit: npt.NDArray[np.float64] = np.multiply(words >> np.uint64(11), 2.0**-53, dtype=np.float64)
    return unit
