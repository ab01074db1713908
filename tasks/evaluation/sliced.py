"""The sliced 2-Wasserstein distance: W2 on random lines, for as many points as memory holds."""

import math

import numpy as np

from tasks.evaluation.distance import Floats, two_sides
from tasks.evaluation.wasserstein import squared_on_lines

_BLOCK = 64  # directions projected at once


def sliced_wasserstein(x: Floats, y: Floats, *, projections: int, seed: int) -> float:
    """Give sqrt of the mean of squared W2 over random directions, between ``x [n, *dim]`` and ``y [m, *dim]``.

    Directions are uniform on the sphere and unit vectors, so a shift by v scores about ||v|| / sqrt(d) and d = 1 gives
    W2 itself. Unbiased in its square over directions. A function of its arguments alone; n log n time for each.

    Args:
        x: points of one side.
        y: points of the other.
        projections: number of directions, at least 1.
        seed: of the directions.

    Raises:
        ValueError: ``projections`` is below 1, a side is not finite, or the dimensions differ.
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    flat_x, flat_y = two_sides(x, y)
    directions = np.random.default_rng(seed).standard_normal((flat_x.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    total = 0.0
    for start in range(0, projections, _BLOCK):
        some = directions[:, start : start + _BLOCK]
        total += float(squared_on_lines(flat_x @ some, flat_y @ some).sum())
    return math.sqrt(total / projections)
