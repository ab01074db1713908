"""Whether samples are copies of training points.

A sample counts as memorised when it is far nearer to one training point than to any other: the ratio test of
Yoon et al. (2023) and Gu et al. (arXiv 2310.02664), with their threshold 1/3 on distances, not squares.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tasks.evaluation.distance import Floats, points, squared_distances, two_sides

Keys = npt.NDArray[np.uint64]

_BLOCK_BYTES = 32 * 2**20  # of one block of distances, or of differences


def memorised_fraction(samples: Floats, blocks: Iterable[Floats], *, ratio: float = 1 / 3) -> float:
    """Give the share of ``samples [n, *dim]`` nearer to one point of the data than ``ratio`` times the second nearest.

    The search is exact. Equal rows of the data count as one point: otherwise the two nearest of a copied duplicate
    would tie and the copy would pass. Near-duplicates are not merged, so the share is then a lower bound. Where data
    lie evenly in d (intrinsic) dimensions, chance alone gives about ``ratio`` to the power d: 11 % in the plane. Costs
    n m d multiplications for m rows of data, and some 100 MiB beyond copies of the samples and of a block. No
    randomness; the cut into blocks changes nothing.

    Args:
        samples: the points to judge.
        blocks: the data, some rows ``[rows, *dim]`` at a time.
        ratio: threshold, in (0, 1].

    Raises:
        ValueError: the data have fewer than two distinct points, ``ratio`` is not in (0, 1], or shapes do not fit.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    flat = points(samples)
    two = np.full((len(flat), 2), np.inf)  # distances to the two nearest distinct points so far
    keys = np.zeros((len(flat), 2), np.uint64)
    for block in blocks:
        _, data = two_sides(flat, block)
        data_keys, first = np.unique(_keys(data), return_index=True)
        for start, stop, found, columns in _nearest_two(flat, data[first]):
            two[start:stop], keys[start:stop] = _merge((two[start:stop], keys[start:stop]), (found, data_keys[columns]))
    if not np.isfinite(two[0, 1]):
        raise ValueError(f"memorisation needs at least 2 distinct training points, got {int(np.isfinite(two[0, 0]))}")
    return float((two[:, 0] < ratio * two[:, 1]).mean())


def _nearest_two(x: Floats, y: Floats) -> Iterator[tuple[int, int, Floats, npt.NDArray[np.intp]]]:
    """Give ``start, stop``, the distances of ``x[start:stop]`` to the two nearest of ``y`` and their rows, ``[., 2]``.

    A single row of ``y`` is followed by a second at infinity.
    """
    rows = max(1, _BLOCK_BYTES // (8 * max(len(y), 2 * y.shape[1])))
    for start in range(0, len(x), rows):
        stop = min(start + rows, len(x))
        part = x[start:stop]
        if len(y) == 1:
            columns = np.zeros((stop - start, 2), np.intp)
        else:
            columns = np.argpartition(squared_distances(part, y), 1, axis=1)[:, :2]
        # Differences, for a copy is at distance 0 and the matrix product knows that only up to rounding.
        exact = np.linalg.norm(part[:, None] - y[columns], axis=2)  # [block, 2]
        if len(y) == 1:
            exact[:, 1] = np.inf
        yield start, stop, exact, columns


def _merge(old: tuple[Floats, Keys], new: tuple[Floats, Keys]) -> tuple[Floats, Keys]:
    """Give distances and keys of the two nearest of both pairs, ``[n, 2]``; a point that is in both counts once."""
    distances, keys = (np.concatenate(parts, axis=1) for parts in zip(old, new, strict=True))  # [n, 4]
    order = np.argsort(distances, axis=1, kind="stable")
    distances, keys = np.take_along_axis(distances, order, 1), np.take_along_axis(keys, order, 1)
    distances[:, 1:][keys[:, 1:] == keys[:, :1]] = np.inf
    second = 1 + distances[:, 1:].argmin(1)
    chosen = np.stack([np.zeros_like(second), second], 1)
    return np.take_along_axis(distances, chosen, 1), np.take_along_axis(keys, chosen, 1)


def _keys(x: Floats) -> Keys:
    """Give a number for each row of ``x [n, d]``, the same for equal rows and, but by a chance of 2^-64, no other."""
    rows = np.ascontiguousarray(x + 0.0)  # + 0.0 makes -0.0 and 0.0 the same bytes
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.uint64)
