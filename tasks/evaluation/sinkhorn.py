"""The Sinkhorn divergence: entropic optimal transport with its bias removed (Feydy et al., arXiv 1810.08278).

With OT_e(x, y) = min_P <P, C> + e KL(P | a b') for the squared Euclidean cost C, the divergence is
S_e = OT_e(x, y) - OT_e(x, x) / 2 - OT_e(y, y) / 2. It is 0 at equal clouds, never negative in exact arithmetic, tends
to W2^2 as e falls to 0 and to the squared distance of the means as e grows.
"""

import math

import numpy as np

from tasks.evaluation.distance import Floats, squared_distances, two_sides

_SCALINGS = 20  # pairs of a kernel, before they are absorbed into the potentials


def sinkhorn(
    x: Floats, y: Floats, *, regularisation: float = 0.05, tolerance: float = 1e-4, max_rounds: int = 500
) -> float:
    """Give sqrt(max(0, S_e)) between ``x [n, *dim]`` and ``y [m, *dim]``, in the units of W2.

    The entropic part of each OT_e is included, and e = ``regularisation`` times the mean squared distance between the
    clouds. Potentials live in the log domain, so a small e does not underflow. Memory is several times n m numbers;
    time is some 100 passes over them, about 1 s at 1,000 points a side and more as e falls. No randomness.

    Args:
        x: points of one side, equally weighted.
        y: points of the other side, equally weighted.
        regularisation: e relative to the mean cost, above 0.
        tolerance: largest total violation of a plan's marginals, in mass.
        max_rounds: of 20 scalings each, at the final e.

    Raises:
        ValueError: an argument is out of range, a side is not finite, or the dimensions differ.
        RuntimeError: the marginals still violate the tolerance after ``max_rounds``.
    """
    if regularisation <= 0 or tolerance <= 0:
        raise ValueError(f"regularisation and tolerance must be positive, got {regularisation} and {tolerance}")
    flat_x, flat_y = two_sides(x, y)
    cost = squared_distances(flat_x, flat_y)
    mean_cost = float(cost.mean())
    if mean_cost == 0:
        return 0.0  # all points in one place
    end = regularisation * mean_cost
    levels = [end * 2.0**k for k in range(max(0, math.ceil(-math.log2(regularisation))), -1, -1)]
    within_x, within_y = (
        _cost_within(squared_distances(side, side), levels, tolerance=tolerance, max_rounds=max_rounds)
        for side in (flat_x, flat_y)
    )
    across = _cost_across(cost, levels, tolerance=tolerance, max_rounds=max_rounds)
    return math.sqrt(max(0.0, across - within_x / 2 - within_y / 2))


def _cost_across(cost: Floats, levels: list[float], *, tolerance: float, max_rounds: int) -> float:
    """Give OT_e(x, y) for the last e of the falling ``levels``, each starting from the one before (Schmitzer, 2019)."""
    f: Floats = np.zeros(cost.shape[0])
    g: Floats = np.zeros(cost.shape[1])
    for e in levels[:-1]:
        f, g, _ = _round(cost, f, g, e=e)
    for _ in range(max_rounds):
        f, g, violation = _round(cost, f, g, e=levels[-1])
        if violation <= tolerance:
            return float(f.mean() + g.mean())  # the dual value: the plan has mass 1, so its entropy term is in it
    raise RuntimeError(_unfinished(violation, max_rounds))


def _cost_within(cost: Floats, levels: list[float], *, tolerance: float, max_rounds: int) -> float:
    """Give OT_e(x, x) likewise, by one potential for both sides.

    Averaging it with its update at least halves the error each time, since the kernel exp(-C / e) is positive definite;
    alternating updates would take thousands of rounds here.
    """
    f = np.zeros(len(cost))
    for e in [*levels[:-1], *[levels[-1]] * (max_rounds * _SCALINGS)]:
        new = -e * _log_mean_exp((f - cost) / e, axis=1)
        violation = float(np.abs(np.exp((f - new) / e) - 1).mean())
        if e == levels[-1] and violation <= tolerance:
            return float(f.mean() + new.mean())
        f = (f + new) / 2
    raise RuntimeError(_unfinished(violation, max_rounds))


def _unfinished(violation: float, max_rounds: int) -> str:
    return f"sinkhorn violates its marginals by {violation:.1e} after {max_rounds} rounds; regularise more"


def _round(cost: Floats, f: Floats, g: Floats, *, e: float) -> tuple[Floats, Floats, float]:
    """Improve potentials ``f [n]`` and ``g [m]``; give them and the mass by which the plan's rows are off.

    One update in the log domain leaves a kernel whose columns sum to 1 and whose rows are within a factor n of it, so
    that the plain scalings that follow, twenty times cheaper, neither overflow nor divide by zero.
    """
    f = -e * _log_mean_exp((g - cost) / e, axis=1)
    g = -e * _log_mean_exp((f[:, None] - cost) / e, axis=0)
    # [n, m], the density of the plan with respect to the product of its marginals
    kernel = np.exp((f[:, None] + g - cost) / e)
    n, m = cost.shape
    v = np.ones(m)
    for _ in range(_SCALINGS):
        u = m / (kernel @ v)
        v = n / (u @ kernel)
    violation = float(np.abs(u * (kernel @ v) / m - 1).mean())
    return f + e * np.log(u), g + e * np.log(v), violation


def _log_mean_exp(a: Floats, *, axis: int) -> Floats:
    top = a.max(axis, keepdims=True)
    return np.asarray(np.log(np.exp(a - top).mean(axis)) + top.squeeze(axis))
