"""Whether samples are copies of training points.

A sample counts as memorised when it is far nearer to one training point than to any other: the ratio test of
Yoon et al. (2023) and Gu et al. (arXiv 2310.02664), with their threshold 1/3 on distances, not squares.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tasks.evaluation.distance import Floats, squared_distances, two_sides

Indices = npt.NDArray[np.intp]

_BLOCK_BYTES = 64 * 2**20  # of one block of distances


def memorised_fraction(samples: Floats, data: Floats, *, ratio: float = 1 / 3) -> float:
    """Give the share of ``samples [n, *dim]`` nearer to one point of ``data`` than ``ratio`` times the second nearest.

    The search is exact. Equal rows of ``data [m, *dim]`` count as one point: otherwise the two nearest of a copied
    duplicate would tie and the copy would pass. Near-duplicates are not merged, so the share is then a lower bound.
    Where data lie evenly in d (intrinsic) dimensions, chance alone gives about ``ratio`` to the power d: 11 % in the
    plane. Costs n m d multiplications and some 100 MiB beyond copies of the data. No randomness.

    Raises:
        ValueError: the data have fewer than two distinct points, ``ratio`` is not in (0, 1], or shapes do not fit.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    flat, distinct = two_sides(samples, data)
    distinct = distinct[_first_of_each(distinct)]
    if len(distinct) < 2:
        raise ValueError(f"memorisation needs at least 2 distinct training points, got {len(distinct)}")
    num_memorised = 0
    for start, stop, squares in _blocks(flat, distinct):
        two = np.argpartition(squares, 1, axis=1)[:, :2]
        # Differences, for a copy is at distance 0 and the matrix product knows that only up to rounding.
        exact = np.linalg.norm(flat[start:stop, None] - distinct[two], axis=2)  # [block, 2]
        num_memorised += int((exact.min(1) < ratio * exact.max(1)).sum())
    return num_memorised / len(flat)


def nearest(samples: Floats, data: Floats) -> Indices:
    """Give the row of ``data [m, *dim]`` nearest to each of ``samples [n, *dim]``, ``[n]``; among equal rows the first.

    Raises:
        ValueError: a side is empty or not finite, or the dimensions differ.
    """
    flat, distinct = two_sides(samples, data)
    rows = _first_of_each(distinct)
    distinct = distinct[rows]
    found = np.empty(len(flat), np.intp)
    for start, stop, squares in _blocks(flat, distinct):
        found[start:stop] = squares.argmin(1)
    return np.asarray(rows[found])


def _blocks(x: Floats, y: Floats) -> Iterator[tuple[int, int, Floats]]:
    """Give ``start, stop`` and the squared distances of ``x[start:stop]`` to all of ``y``, block by block."""
    rows = max(1, _BLOCK_BYTES // (8 * len(y)))
    for start in range(0, len(x), rows):
        stop = min(start + rows, len(x))
        yield start, stop, squared_distances(x[start:stop], y)


def _first_of_each(x: Floats) -> Indices:
    """Give, ascending, the first row of each set of equal rows of ``x [n, d]``."""
    rows = np.ascontiguousarray(x + 0.0)  # + 0.0 makes -0.0 and 0.0 the same bytes
    # Rows compared as bytes: numpy's own unique over an axis compares d fields one by one.
    _, first = np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))), return_index=True)
    return np.sort(first)
