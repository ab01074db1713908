"""The error budget of a one-step law: a bound on its W2 whose terms are measured along paths from the same noise.

From each noise x0 four paths go to time T and end in: a, where the generator jumps to; b, where the run's solver comes
to with its K steps; c, the limit of that solver's steps; d, where the exact characteristic comes to. The law of d is
that of x_T = alpha_T x0 + beta_T x1, which is coupled with its own x1. So, with |.| the root mean square over paths,

    W2(law of a, law of x1) <= |a - b| + |b - c| + |c - d| + |x_T - x1|
                                fit      euler     velocity  early stopping

by the triangle inequality. No Lipschitz constant carries one error to the next (in the bound of arXiv 2405.05512 it is
e^(G T)), for what each does to the ends is measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance, Floats

TERMS = ("early_stopping", "velocity", "euler", "fit")


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where paths from the same noise end, each ``[n, *dim]``, in standardised units.

    Args:
        solver: b, and the same with every step halved, and halved again.
        limit: c.
        exact: d.
    """

    solver: tuple[Floats, Floats, Floats]
    limit: Floats
    exact: Floats


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Squared distances of a path's ends, in data units, each ``[n]`` float64.

    Args:
        euler: b to c.
        velocity: c to d.
        coarse: from K steps to 2 K.
        fine: from 2 K steps to 4 K.
    """

    euler: Floats
    velocity: Floats
    coarse: Floats
    fine: Floats


@dataclass(frozen=True, kw_only=True)
class ErrorBudget:
    """The budget of a run.

    Args:
        terms: ``early_stopping, velocity, euler, fit`` and their sum ``bound``.
        measured: W2 beyond its floor, which the bound is to be compared with.
        law: what the bound is a distance to, in words.
        words: what each term is in this run, by the keys of ``terms``.
        advice: a sentence or two, which knob to turn next and what that buys.
    """

    terms: Mapping[str, Distance]
    measured: Distance
    law: str
    words: Mapping[str, str]
    advice: str

    @property
    def distances(self) -> list[Distance]:
        """All its numbers under their public names."""
        return [*self.terms.values(), self.measured]


def richardson(fine: Floats, coarse: Floats, *, order: int) -> Floats:
    """Give the limit of ends whose error falls like the step to the power ``order``, from steps h and 2 h."""
    return fine + (fine - coarse) / (2.0**order - 1)


def gaps_of(ends: Ends, *, scale: Floats) -> Gaps:
    """Give the gaps of some paths; ``scale [*dim]`` is what a standardised unit is in data units."""
    once, twice, four_times = ends.solver
    return Gaps(
        euler=squared_gaps(once, ends.limit, scale=scale),
        velocity=squared_gaps(ends.limit, ends.exact, scale=scale),
        coarse=squared_gaps(once, twice, scale=scale),
        fine=squared_gaps(twice, four_times, scale=scale),
    )


def squared_gaps(x: Floats, y: Floats, *, scale: Floats) -> Floats:
    """Give ||scale (x - y)||^2 of each path, ``[n]`` float64, for ends ``x, y [n, *dim]``."""
    gaps = scale * (x.astype(np.float64) - y)
    return np.asarray((gaps.reshape(len(gaps), -1) ** 2).sum(1))


def joined(parts: Sequence[Gaps]) -> Gaps:
    """Give the gaps of all paths."""
    return Gaps(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Gaps.__annotations__})


def early_stopping(noise: float, data: float, *, scale: Floats, second_moments: Floats) -> float:
    """Give sqrt(E ||x_T - x1||^2) in data units, for x_T = alpha_T x0 + beta_T x1 with that very x1.

    Args:
        noise: alpha_T.
        data: beta_T.
        scale: of a standardised unit, ``[*dim]``.
        second_moments: E x1_i^2 in standardised units, ``[*dim]``.
    """
    return math.sqrt(float((scale**2 * (noise**2 + (1 - data) ** 2 * second_moments)).sum()))


def budget_terms(gaps: Gaps, *, fit: Floats, stopping: float, rows: int) -> dict[str, Distance]:
    """Give the four terms and ``bound``, their sum, each with its standard error over the paths.

    The error of the sum is that of the sum of what each path adds to the terms (the delta method), which share their
    paths: those of ``gaps`` are the first of those of ``fit``. Early stopping is known exactly.

    Args:
        gaps: of some paths.
        fit: squared distances of a to b, in data units, ``[m]``, of at least as many.
        stopping: :func:`early_stopping`.
        rows: that it was computed from.
    """
    velocity, by_velocity = _root(gaps.velocity)
    euler, by_euler = _root(gaps.euler)
    fitted, by_fit = _root(fit)
    n, flow = len(by_velocity), by_velocity + by_euler
    shared = float(np.cov(by_fit[:n], flow)[0, 1]) if n > 1 else 0.0
    variance = _variance(flow) / n + _variance(by_fit) / len(fit) + 2 * shared / len(fit)

    def term(name: str, value: float, influences: Floats) -> Distance:
        error = math.sqrt(_variance(influences) / len(influences))
        return Distance(name=f"budget.{name}", value=value, standard_error=error, n=len(influences))

    return {
        "early_stopping": Distance(name="budget.early_stopping", value=stopping, standard_error=0.0, n=rows),
        "velocity": term("velocity", velocity, by_velocity),
        "euler": term("euler", euler, by_euler),
        "fit": term("fit", fitted, by_fit),
        "bound": Distance(
            name="budget.bound",
            value=stopping + velocity + euler + fitted,
            standard_error=math.sqrt(max(0.0, variance)),
            n=n,
        ),
    }


def _root(squares: Floats) -> tuple[float, Floats]:
    """Give the root mean square, and by how much each path moves it, ``[n]``."""
    value = math.sqrt(float(squares.mean()))
    return value, (squares - squares.mean()) / (2 * value) if value > 0 else np.zeros(len(squares))


def _variance(x: Floats) -> float:
    return float(x.var(ddof=1)) if len(x) > 1 else 0.0


def observed_order(gaps: Gaps) -> float | None:
    """Give the p of an error that falls like K^-p, from the gaps of (K, 2 K) and (2 K, 4 K); None where one is 0."""
    coarse, fine = float(gaps.coarse.mean()), float(gaps.fine.mean())
    return math.log2(coarse / fine) / 2 if coarse > 0 and fine > 0 else None


def excess(w2: Measured) -> Distance:
    """Give ``w2_excess`` = sqrt(max(0, w2^2 - w2_floor^2)): what is left of W2 above its floor.

    The difference of squares is floor^2 (ratio^2 - 1). Its error is by the delta method; how floor and ratio are
    correlated is not known, so their parts add up. The root's error is its rise or its fall, whichever is more, when
    the square moves by that: also where the square is near 0 or below, there is one.
    """
    floor, ratio = w2.floor, w2.ratio
    square = floor.value**2 * (ratio.value**2 - 1)
    spread = (
        2
        * floor.value
        * (abs(ratio.value**2 - 1) * floor.standard_error + floor.value * ratio.value * ratio.standard_error)
    )
    value = math.sqrt(max(0.0, square))
    rise, fall = math.sqrt(max(0.0, square) + spread) - value, value - math.sqrt(max(0.0, square - spread))
    return Distance(name="w2_excess", value=value, standard_error=max(rise, fall), n=w2.distance.n)
