"""The global order of a training, as pure functions of (seed, epoch, position).

Block shuffle: chunks are permuted, gathered into windows of a few chunks, and rows are permuted inside a window, once
for each visit. So a reader holds one window in memory, reads every chunk once an epoch, and knows every position's row
without having drawn those before it. Nothing here depends on the number of readers.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from storage.chunks import ChunkGrid

Indices = npt.NDArray[np.int64]

_CHUNKS, _ROWS, _PAIRS, _DATA = 1, 2, 3, 4  # streams of the counter-based generator


@dataclass(frozen=True, kw_only=True)
class Order:
    """How an epoch visits the rows of a store.

    Attributes:
        grid: the store's chunks.
        seed: of the permutations and the pairs.
        window: chunks that are shuffled together.
        visits: how often each row comes up in an epoch, each time with another pair.
    """

    grid: ChunkGrid
    seed: int
    window: int
    visits: int

    def __post_init__(self) -> None:
        if self.window < 1 or self.visits < 1 or self.grid.rows < 1:
            raise ValueError(f"an order needs rows, window and visits of at least 1, got {self}")

    @property
    def epoch_size(self) -> int:
        """Positions of an epoch: every row, ``visits`` times."""
        return self.grid.rows * self.visits

    def windows(self, epoch: int) -> list[Indices]:
        """Give the chunks of each window of an epoch, in reading order."""
        chunks = _rng(self.seed, _CHUNKS, epoch).permutation(self.grid.count)
        return [chunks[k : k + self.window] for k in range(0, len(chunks), self.window)]

    def window_rows(self, chunks: Indices) -> int:
        """Give the number of rows of the given chunks."""
        return sum(self.grid.chunk(int(chunk)).rows for chunk in chunks)

    def visit(self, epoch: int, window: int, visit: int, *, rows: int) -> Indices:
        """Give the order in which one visit goes through a window's ``rows`` rows, as offsets into the window."""
        return _rng(self.seed, _ROWS, epoch, window, visit).permutation(rows)


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
    generator = np.random.Philox(key=[seed, _PAIRS], counter=[start, epoch, 0, 0])
    words = generator.random_raw(4 * (stop - start)).reshape(-1, 4)  # position p reads counter p alone
    first = _below(words[:, 0], times)
    second = (first + 1 + _below(words[:, 1], times - 1)) % times
    is_full = _unit(words[:, 2]) < full_span_share
    low = np.where(is_full, 0, np.minimum(first, second))
    high = np.where(is_full, times - 1, np.maximum(first, second))
    return low, high


def _rng(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=path)))


def _below(words: npt.NDArray[np.uint64], bound: int) -> Indices:
    """Map 64-bit words to integers in [0, bound); the bias is below bound / 2^53."""
    return (_unit(words) * bound).astype(np.int64)


def _unit(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    unit: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit
