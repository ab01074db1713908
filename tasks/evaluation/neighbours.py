"""The nearest points of the data of each sample: an exact search, a block of the data at a time.

Equal rows of the data count as one point, recognised by a digest: otherwise the two nearest of a copied duplicate would
tie, and the copy would pass for new.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.evaluation.distance import Floats, points, squared_distances, two_sides

Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_BLOCK_BYTES = 32 * 2**20  # of one block of distances, or of differences


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The k nearest distinct points of the data of some samples, nearest first.

    Args:
        distances: ``[n, k]``; infinite where the data have fewer points.
        rows: of the data, ``[n, k]``, the first of equal ones; -1 where the data have fewer points.
    """

    distances: Floats
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Some points for each of some samples, ``[n, k]`` each; those of one sample are distinct."""

    distances: Floats
    rows: Rows
    keys: Keys

    def place(self, start: int, stop: int) -> "_Candidates":
        """Give views of the candidates of some samples."""
        part = slice(start, stop)
        return _Candidates(distances=self.distances[part], rows=self.rows[part], keys=self.keys[part])

    def assign(self, other: "_Candidates") -> None:
        """Overwrite them, where they are, by others of the same number."""
        self.distances[:], self.rows[:], self.keys[:] = other.distances, other.rows, other.keys


def find_neighbours(samples: Floats, blocks: Iterable[Floats], *, k: int) -> Neighbours:
    """Find the ``k`` nearest distinct points of the data of each of ``samples [n, *dim]``.

    Costs n m d multiplications for m rows of data, and some 100 MiB beyond copies of the samples and of a block. No
    randomness; the cut into blocks changes no distance.

    Args:
        samples: the points whose neighbours are sought.
        blocks: the data in order of row, some rows ``[rows, *dim]`` at a time.
        k: how many, at least 1.

    Raises:
        ValueError: shapes do not fit, or a value is not finite.
    """
    flat = points(samples)
    shape = (len(flat), k)
    best = _Candidates(
        distances=np.full(shape, np.inf), rows=np.full(shape, -1, np.int64), keys=np.zeros(shape, np.uint64)
    )
    begin = 0
    for block in blocks:
        _, data = two_sides(flat, block)
        keys, first = np.unique(_keys(data), return_index=True)
        for start, stop, distances, columns in _nearest(flat, data[first], k=k):
            found = _Candidates(distances=distances, rows=begin + first[columns], keys=keys[columns])
            held = best.place(start, stop)
            held.assign(_merged(held, found, k=k))
        begin += len(data)
    return Neighbours(distances=best.distances, rows=best.rows)


def _nearest(x: Floats, y: Floats, *, k: int) -> Iterator[tuple[int, int, Floats, npt.NDArray[np.intp]]]:
    """Give ``start, stop``, the distances of ``x[start:stop]`` to the k nearest of ``y``, and their rows, ``[., k]``.

    Where ``y`` has fewer, all of it.
    """
    k = min(k, len(y))
    rows = max(1, _BLOCK_BYTES // (8 * max(len(y), k * y.shape[1])))
    for start in range(0, len(x), rows):
        stop = min(start + rows, len(x))
        part = x[start:stop]
        columns = np.argpartition(squared_distances(part, y), k - 1, axis=1)[:, :k]
        # Differences, for a copy is at distance 0 and the matrix product knows that only up to rounding.
        yield start, stop, np.linalg.norm(part[:, None] - y[columns], axis=2), columns


def _merged(old: _Candidates, new: _Candidates, *, k: int) -> _Candidates:
    """Give the k nearest of both; a point that is in both counts once."""
    both = _Candidates(
        distances=np.concatenate([old.distances, new.distances], axis=1),
        rows=np.concatenate([old.rows, new.rows], axis=1),
        keys=np.concatenate([old.keys, new.keys], axis=1),
    )
    held = old.distances.shape[1]
    again = (both.keys[:, held:, None] == both.keys[:, None, :held]) & np.isfinite(both.distances[:, None, :held])
    both.distances[:, held:][again.any(2)] = np.inf
    order = np.argsort(both.distances, axis=1, kind="stable")[:, :k]
    distances: Floats = np.take_along_axis(both.distances, order, 1)
    rows = np.where(np.isfinite(distances), np.take_along_axis(both.rows, order, 1), -1)
    return _Candidates(distances=distances, rows=rows, keys=np.take_along_axis(both.keys, order, 1))


def _keys(x: Floats) -> Keys:
    """Give a number for each row of ``x [n, d]``, the same for equal rows and, but by a chance of 2^-64, no other."""
    rows = np.ascontiguousarray(x + 0.0)  # + 0.0 makes -0.0 and 0.0 the same bytes
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.uint64)
