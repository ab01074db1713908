"""Orders of convergence: straight lines through errors on doubly logarithmic axes, and how certain they are."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from tasks.evaluation.distance import Floats

TOLERANCE = 0.05  # by which a local slope may differ from the finest one and still count as asymptotic
LEAST_POINTS = 3  # that a tail keeps


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """The line log y = level + slope (log x - centre), by least squares.

    Args:
        slope: of the line.
        standard_error: of the slope, from the scatter about the line; None for two points, which have none.
        last: slope between the last two points.
        points: number of points that were fitted.
        centre: mean of log x.
        level: mean of log y.
        spread: sum of the squares of log x - centre.
    """

    slope: float
    standard_error: float | None
    last: float
    points: int
    centre: float
    level: float
    spread: float

    def at(self, x: Floats) -> Floats:
        """Give the line's y at ``x [n]``."""
        return np.asarray(np.exp(self.level + self.slope * (np.log(x) - self.centre)))

    def interval(self, *, confidence: float = 0.95) -> tuple[float, float] | None:
        """Give the confidence interval of the slope; None for two points."""
        if self.standard_error is None:
            return None
        half = self._quantile(confidence) * self.standard_error
        return self.slope - half, self.slope + half

    def band(self, x: Floats, *, confidence: float = 0.95) -> tuple[Floats, Floats] | None:
        """Give the confidence band of the line at ``x [n]``, low and high ``[n]``; None for two points."""
        if self.standard_error is None:
            return None
        # the variance of the line's height is that of its level and, away from the centre, of its slope
        reach = np.sqrt(self.spread / self.points + (np.log(x) - self.centre) ** 2)
        factor = np.exp(self._quantile(confidence) * self.standard_error * reach)
        middle = self.at(x)
        return middle / factor, middle * factor

    def _quantile(self, confidence: float) -> float:
        return float(student.ppf((1 + confidence) / 2, self.points - 2))


def fit_power_law(x: Floats, y: Floats) -> PowerLaw:
    """Fit y = c x^slope to ``x, y [n]``, x ascending.

    Raises:
        ValueError: there are fewer than two points, x does not ascend, or a number is not positive.
    """
    if len(x) < 2 or len(x) != len(y) or not (np.diff(x) > 0).all() or min(x.min(), y.min()) <= 0:
        raise ValueError(f"a power law needs two points or more, positive and ascending in x, got {x} and {y}")
    u, v = np.log(x), np.log(y)
    centre, level = u.mean(), v.mean()
    spread = ((u - centre) ** 2).sum()
    slope = ((u - centre) * (v - level)).sum() / spread
    rest = v - level - slope * (u - centre)
    error = float(np.sqrt((rest**2).sum() / (len(x) - 2) / spread)) if len(x) > 2 else None
    return PowerLaw(
        slope=float(slope),
        standard_error=error,
        last=float((v[-1] - v[-2]) / (u[-1] - u[-2])),
        points=len(x),
        centre=float(centre),
        level=float(level),
        spread=float(spread),
    )


def fit_tail(x: Floats, y: Floats) -> PowerLaw:
    """Fit a power law where it holds, for errors that have no noise of their own.

    Points are left out from the coarse end, the small x, until every slope between neighbours is within
    ``TOLERANCE`` of the slope between the last two; ``LEAST_POINTS`` are kept in any case.
    Noisy data would be bent by such a choice.

    Raises:
        ValueError: as :func:`fit_power_law`.
    """
    fit_power_law(x, y)
    slopes = np.diff(np.log(y)) / np.diff(np.log(x))
    strays = np.flatnonzero(np.abs(slopes - slopes[-1]) > TOLERANCE)
    first = min(int(strays[-1]) + 1 if len(strays) else 0, max(0, len(x) - LEAST_POINTS))
    return fit_power_law(x[first:], y[first:])
