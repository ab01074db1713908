"""The 2-Wasserstein distance: exact between point clouds, on the line, and between Gaussians.

All of them give W2 itself, in the units of the points, not its square.
"""

import math
import warnings

import numpy as np
from ot.lp import emd

from tasks.evaluation.distance import Floats, squared_distances, two_sides

MAX_POINTS = 10_000
_BLOCK = 512  # of a plan's couples whose differences are held at once
_MAX_PIVOTS = 100_000_000  # of the network simplex; 10,000 points take some 10 million


def wasserstein(x: Floats, y: Floats) -> float:
    """Give the exact W2 between the empirical laws of ``x [n, *dim]`` and ``y [m, *dim]`` by linear programming.

    Equal weights, squared Euclidean cost, float64. The plan is found on costs from a matrix product; its value is
    summed anew from coordinate differences, so equal clouds are at distance 0. Costs 8 n m bytes twice over and about
    n^2.5 time: near 1 s at 2,000 points a side, minutes at 10,000. No randomness.

    Raises:
        ValueError: a side has over ``MAX_POINTS`` points, is not finite, or the dimensions differ.
        RuntimeError: the solver stopped before the optimum.
    """
    flat_x, flat_y = two_sides(x, y)
    largest = max(len(flat_x), len(flat_y))
    if largest > MAX_POINTS:
        raise ValueError(
            f"exact W2 takes at most {MAX_POINTS} points a side, got {largest}; lower evaluation.samples, "
            "or use the sliced or Gaussian distance"
        )
    return math.sqrt(_plan_cost(flat_x, flat_y, max_pivots=_MAX_PIVOTS))


def _plan_cost(x: Floats, y: Floats, *, max_pivots: int) -> float:
    weight_x, weight_y = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    with warnings.catch_warnings():  # POT warns and answers; what it would warn of is raised below
        warnings.simplefilter("ignore")
        plan, log = emd(weight_x, weight_y, squared_distances(x, y), numItermax=max_pivots, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"exact W2 of {len(x)} and {len(y)} points found no optimal plan: {log['warning']}")
    i, j = np.nonzero(plan)
    mass, total = plan[i, j], 0.0
    for start in range(0, len(i), _BLOCK):
        part = slice(start, start + _BLOCK)
        total += float(mass[part] @ ((x[i[part]] - y[j[part]]) ** 2).sum(1))
    return total


def wasserstein_1d(x: Floats, y: Floats) -> float:
    """Give the exact W2 between the empirical laws of ``x [n]`` and ``y [m]`` on the line: the sorted coupling.

    Raises:
        ValueError: a side is empty, not finite, or not one-dimensional.
    """
    flat_x, flat_y = two_sides(x, y)
    if flat_x.shape[1] != 1:
        raise ValueError(f"the sorted coupling needs points on the line, got dimension {flat_x.shape[1]}")
    return math.sqrt(float(squared_on_lines(flat_x, flat_y)[0]))


def squared_on_lines(x: Floats, y: Floats) -> Floats:
    """Give the squared W2 of each column of ``x [n, k]`` and ``y [m, k]`` on its own, ``[k]``.

    It is the integral of the squared difference of the two quantile functions, which are steps of 1/n and 1/m.
    """
    x, y = np.sort(x, axis=0), np.sort(y, axis=0)
    n, m = len(x), len(y)
    if n == m:
        return np.asarray(((x - y) ** 2).mean(0))
    # Whole numbers, so that steps that end together do so exactly: in units of 1/(n m) they end at m and n times k.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    gaps = x[(ends - 1) // m] - y[(ends - 1) // n]
    return np.asarray(widths @ gaps**2)


def gaussian_wasserstein(x: Floats, y: Floats) -> float:
    """Give W2 between the Gaussians fitted to ``x [n, *dim]`` and ``y [m, *dim]``: a lower bound of W2 (Gelbrich).

    Uses sample means and unbiased covariances; any number of points, d^2 memory and d^3 time.

    Raises:
        ValueError: a side has fewer than two points, is not finite, or the dimensions differ.
    """
    sides = []
    for side in two_sides(x, y):
        if len(side) < 2:
            raise ValueError(f"a Gaussian fit needs at least 2 points a side, got {len(side)}")
        sides += [side.mean(0), np.atleast_2d(np.cov(side, rowvar=False))]
    return gaussian_wasserstein_of_moments(*sides)


def gaussian_wasserstein_of_moments(
    mean_x: Floats, covariance_x: Floats, mean_y: Floats, covariance_y: Floats
) -> float:
    """Give W2 between N(mean_x, covariance_x) and N(mean_y, covariance_y), in ``[d]`` and ``[d, d]`` float64.

    W2^2 = ||m_x - m_y||^2 + Tr(S_x + S_y - 2 (S_x^(1/2) S_y S_x^(1/2))^(1/2)) (Bures). The last trace is the sum of the
    singular values of F_x' F_y for any factors S = F F', here from symmetric eigensystems: no square root of a
    non-symmetric matrix, hence nothing complex. Where the two laws nearly agree the traces cancel, and W2 is good to
    about 1e-8 of the standard deviation.

    Raises:
        ValueError: the shapes do not fit.
    """
    d = len(mean_x)
    if not (mean_y.shape == (d,) and covariance_x.shape == covariance_y.shape == (d, d)):
        shapes = [list(a.shape) for a in (mean_x, covariance_x, mean_y, covariance_y)]
        raise ValueError(f"moments must be [d], [d, d], [d], [d, d], got {shapes}")
    cross = np.linalg.svd(factor(covariance_x).T @ factor(covariance_y), compute_uv=False).sum()
    spread = np.trace(covariance_x) + np.trace(covariance_y) - 2 * cross
    return math.sqrt(max(0.0, float(((mean_x - mean_y) ** 2).sum() + spread)))


def factor(covariance: Floats) -> Floats:
    """Give F ``[d, rank]`` with F F' = covariance ``[d, d]``; eigenvalues lost in rounding are dropped."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
