"""A measured number with its standard error, and the points a distance is measured between."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

_BLOCK = 512  # points whose differences from a centre are held at once


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A measured number.

    Args:
        name: public name of the metric, such as ``w2``.
        value: the number itself.
        standard_error: its standard error, at least 0.
        n: points on each side of one measurement, or of samples alone, at least 1.
        n_reference: points of the data, where their number is another.

    Raises:
        ValueError: a number is not finite or outside its range.
    """

    name: str
    value: float
    standard_error: float
    n: int
    n_reference: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.name} must be finite, got {self.value}")
        if not 0 <= self.standard_error < math.inf:
            raise ValueError(f"the standard error of {self.name} must be finite, at least 0, got {self.standard_error}")
        if self.n < 1:
            raise ValueError(f"{self.name} must be measured on at least 1 point, got {self.n}")


def points(x: Floats) -> Floats:
    """Flatten ``x [n, *dim]`` to finite float64 points ``[n, d]``; ``[n]`` counts as d = 1. No copy where none is due.

    Raises:
        ValueError: there is no point, or a coordinate is not finite.
    """
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"points must be a non-empty array [n, *dim], got shape {list(x.shape)}")
    flat = x.reshape(len(x), -1).astype(np.float64, copy=False)
    if not np.isfinite(flat).all():
        raise ValueError(f"points must be finite, got {int((~np.isfinite(flat)).sum())} bad coordinates of {flat.size}")
    return flat


def two_sides(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Flatten ``x [n, *dim]`` and ``y [m, *dim]`` to points of one dimension, ``[n, d]`` and ``[m, d]`` float64.

    Raises:
        ValueError: the dimensions differ, or :func:`points` refuses a side.
    """
    flat_x, flat_y = points(x), points(y)
    if flat_x.shape[1] != flat_y.shape[1]:
        raise ValueError(f"both sides must have one dimension, got {flat_x.shape[1]} and {flat_y.shape[1]}")
    return flat_x, flat_y


def squared_distances(x: Floats, y: Floats) -> Floats:
    """Give ||x_i - y_j||^2 as a new ``[n, m]`` for ``x [n, d], y [m, d]`` float64, by one matrix product.

    The product cancels, so entries carry an absolute error of about 1e-15 of the largest squared distance to
    the mean of ``y``. Good to compare distances with; values to report are taken from differences. Holds one more copy
    of ``y``, and of ``x`` a block at a time.
    """
    centre = y.mean(0)
    y = y - centre
    squares = np.einsum("ij,ij->i", y, y)
    out = np.empty((len(x), len(y)))
    for start in range(0, len(x), _BLOCK):
        part, block = x[start : start + _BLOCK] - centre, out[start : start + _BLOCK]
        np.matmul(part, y.T, out=block)
        block *= -2
        block += np.einsum("ij,ij->i", part, part)[:, None]
        block += squares
    return np.maximum(out, 0, out=out)
