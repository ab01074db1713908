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
        generator: a.
        solver: b, and the same with every step halved, and halved again.
        limit: c.
        exact: d.
    """

    generator: Floats
    solver: tuple[Floats, Floats, Floats]
    limit: Floats
    exact: Floats


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Squared distances of a path's ends, in data units, each ``[n]`` float64.

    Args:
        fit: a to b.
        euler: b to c.
        velocity: c to d.
        coarse: from K steps to 2 K.
        fine: from 2 K steps to 4 K.
    """

    fit: Floats
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

    def squares(x: Floats, y: Floats) -> Floats:
        gaps = scale * (x.astype(np.float64) - y)
        return np.asarray((gaps.reshape(len(gaps), -1) ** 2).sum(1))

    return Gaps(
        fit=squares(ends.generator, once),
        euler=squares(once, ends.limit),
        velocity=squares(ends.limit, ends.exact),
        coarse=squares(once, twice),
        fine=squares(twice, four_times),
    )


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


def budget_terms(gaps: Gaps, *, stopping: float, rows: int) -> dict[str, Distance]:
    """Give the four terms and ``bound``, their sum, each with its standard error over the paths.

    The terms share their paths, so the error of their sum is that of the sum of what each path adds to them (the delta
    method). Early stopping is known exactly.

    Args:
        gaps: of all paths.
        stopping: :func:`early_stopping`.
        rows: that it was computed from.
    """
    squares = {"velocity": gaps.velocity, "euler": gaps.euler, "fit": gaps.fit}
    values = {name: math.sqrt(float(of.mean())) for name, of in squares.items()}
    influences = {
        name: (of - of.mean()) / (2 * values[name]) if values[name] > 0 else np.zeros(len(of))
        for name, of in squares.items()
    }
    values["bound"] = stopping + sum(values.values())
    influences["bound"] = np.sum(list(influences.values()), axis=0)
    found = {
        "early_stopping": Distance(name="budget.early_stopping", value=stopping, standard_error=0.0, n=rows),
    }
    for name, value in values.items():
        each = influences[name]
        error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else 0.0
        found[name] = Distance(name=f"budget.{name}", value=value, standard_error=error, n=len(each))
    return found


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
