"""The Frechet distance of Gaussians fitted to raw pixels or features, from streamed moments.

The formula of FID (Heusel et al., arXiv 1706.08500) without its Inception network: a *squared* Gaussian W2. Scores
compare only at one sample count, one pixel range and one reference.
"""

import math

import numpy as np

from tasks.evaluation.distance import Floats, points, two_sides
from tasks.evaluation.wasserstein import factor, gaussian_wasserstein_of_moments

_BLOCK = 1024  # points taken in at once
_KEPT = 1000  # points at least, where there are as many, from which a standard error comes
_LEAST = 1e-8  # singular values below that of the largest one are lost in rounding


class Moments:
    """Mean and covariance of a stream of points, in float64, one pass.

    Blocks are merged by the update of Chan, Golub and LeVeque (1983), which does not cancel as sums of squares do.
    Order and cut of the stream matter up to rounding only. Holds d^2 numbers.
    """

    def __init__(self) -> None:
        self._n = 0
        self._mean: Floats = np.zeros(0)
        self._scatter: Floats = np.zeros((0, 0))  # sum of (x - mean)(x - mean)'

    @property
    def n(self) -> int:
        """Points seen."""
        return self._n

    @property
    def mean(self) -> Floats:
        """The mean, ``[d]``; raises ``ValueError`` before the first point."""
        self._require(1)
        return self._mean.copy()

    @property
    def covariance(self) -> Floats:
        """The unbiased covariance, ``[d, d]``; raises ``ValueError`` before the second point."""
        self._require(2)
        return self._scatter / (self._n - 1)

    def update(self, batch: Floats) -> None:
        """Take in ``batch [rows, *dim]``, flattened; raises ``ValueError`` where it is empty, not finite, or misfit."""
        flat = points(batch)
        mean = flat.mean(0)
        centred = flat - mean
        self._absorb(len(flat), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> None:
        """Take in all that ``other`` has seen; raises ``ValueError`` where the dimensions differ."""
        if other._n:
            self._absorb(other._n, other._mean, other._scatter)

    def _absorb(self, n: int, mean: Floats, scatter: Floats) -> None:
        if not self._n:
            self._n, self._mean, self._scatter = n, mean.copy(), scatter.copy()
            return
        if mean.shape != self._mean.shape:
            raise ValueError(f"moments of dimension {len(self._mean)} cannot take in points of dimension {len(mean)}")
        total = self._n + n
        gap = mean - self._mean
        self._scatter += scatter + np.outer(gap, gap) * (self._n * n / total)
        self._mean = self._mean + gap * (n / total)
        self._n = total

    def _require(self, n: int) -> None:
        if self._n < n:
            raise ValueError(f"moments need at least {n} points, got {self._n}")


def frechet_of_points(x: Floats, y: Floats) -> float:
    """Give :func:`frechet` of the Gaussians fitted to ``x [n, *dim]`` and ``y [m, *dim]``.

    Where points are fewer than dimensions, by the centred points themselves: as the columns of F with S = F F' they are
    the factors that the formula asks for, and no d x d matrix is made. Memory is some copies of the points.

    Raises:
        ValueError: a side has fewer than two points, is not finite, or the dimensions differ.
    """
    flat_x, flat_y = two_sides(x, y)
    n, m = len(flat_x), len(flat_y)
    if max(n, m) > flat_x.shape[1] or min(n, m) < 2:
        return frechet(_moments(flat_x), _moments(flat_y))
    mean_x, mean_y = flat_x.mean(0), flat_y.mean(0)
    flat_x, flat_y = flat_x - mean_x, flat_y - mean_y
    spread = (flat_x * flat_x).sum() / (n - 1) + (flat_y * flat_y).sum() / (m - 1)
    cross = np.linalg.svd(flat_x @ flat_y.T, compute_uv=False).sum() / math.sqrt((n - 1) * (m - 1))
    return float(((mean_x - mean_y) ** 2).sum() + max(0.0, spread - 2 * cross))


def _moments(x: Floats) -> Moments:
    found = Moments()
    for start in range(0, len(x), _BLOCK):
        found.update(x[start : start + _BLOCK])
    return found


def frechet(x: Moments, y: Moments) -> float:
    """Give ||m_x - m_y||^2 + Tr(S_x + S_y - 2 (S_x S_y)^(1/2)), the square of the Gaussian W2; d^3 time.

    Raises:
        ValueError: a side has fewer than two points, or the dimensions differ.
    """
    return gaussian_wasserstein_of_moments(x.mean, x.covariance, y.mean, y.covariance) ** 2


class Sketch:
    """What is kept of a stream of ``n`` points: their moments, and evenly spaced ones of them, 1000 to 1999 of many."""

    def __init__(self, n: int) -> None:
        self.moments = Moments()
        self._stride = max(1, n // _KEPT)
        self._kept: list[Floats] = []

    def update(self, batch: Floats) -> None:
        """Take in ``batch [rows, *dim]`` as :meth:`Moments.update` does."""
        flat = points(batch)
        first = -self.moments.n % self._stride
        self.moments.update(flat)
        self._kept.append(flat[first :: self._stride].copy())

    @property
    def kept(self) -> Floats:
        """The points that are kept, ``[rows, d]``."""
        return np.concatenate(self._kept)


def frechet_with_error(x: Sketch, y: Moments) -> tuple[float, float]:
    """Give :func:`frechet` and the standard error that the randomness of the points of ``x`` gives it; ``y`` is fixed.

    By the delta method: one point of n moves the distance by 1/n of 2 (m_x - m_y)'z + z'(I - A)z, less its mean, where
    z = x - m_x and A = F (F' S_x F)^(-1/2) F' with S_y = F F' is the map that carries the one Gaussian to the other.
    The error is the deviation of that over the points kept, over sqrt(n). Where the two laws agree the distance has
    no first order, and the error is too large by up to a half.

    Raises:
        ValueError: a side has fewer than two points, or the dimensions differ.
    """
    wide_x, wide_y = x.moments.covariance, y.covariance
    gap, spread = x.moments.mean - y.mean, np.trace(wide_x) + np.trace(wide_y)
    there = factor(wide_y)
    left, values, _ = np.linalg.svd(there.T @ factor(wide_x), full_matrices=False)
    value = max(0.0, float(gap @ gap + spread - 2 * values.sum()))
    kept = values > _LEAST * values.max(initial=0.0)
    root = there @ (left[:, kept] / np.sqrt(values[kept]))  # A = root root'
    z = x.kept - x.moments.mean
    moved = 2 * (z @ gap) + (z * z).sum(1) - ((z @ root) ** 2).sum(1)
    return value, float(moved.std(ddof=1) / math.sqrt(x.moments.n))
