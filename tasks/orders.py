"""What a study measures beyond its runs: how far their end states are off, and how fast that and the metrics fall.

An end state is compared with the exact one of the same noise: row i's noise is a function of (seed, i), so row i of
every run is the same characteristic, solved otherwise.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from storage.chunks import Shard
from storage.paths import Location
from storage.trajectories import Floats, TrajectoryStore
from tasks.evaluation.convergence import PowerLaw, fit_power_law, fit_tail
from tasks.evaluation.distance import Distance
from tasks.facts import Progress
from tasks.fit_velocity import load_velocity
from tasks.measures import root_mean_square
from tasks.transport.noise import TRAJECTORIES, standard_normal
from tasks.transport.solver import EVALUATIONS_PER_STEP, ORDERS
from tasks.transport.targets import OracleField

STEPS_KEY = "trajectories.steps"
EVALUATIONS, ERROR = "evaluations", "error"
_COUNT_KEYS = ("dataset.count", "trajectories.count")  # whose rates depend on the dimension
# metrics that are fitted, beside the terms of the budget
_FITTED = ("w2", "w2_excess", "w2_ratio", "sliced_w2", "sinkhorn", "velocity_error", "fit_error")


@dataclass(frozen=True, kw_only=True)
class PointRequest:
    """A point of a study, its run done as far as was asked."""

    run: str
    values: Mapping[str, Any]  # swept, by key
    steps: int  # K
    solver: str
    count: int  # trajectories
    intrinsic: int | None  # dimension of the manifold that the data lie about; None where they fill their space
    store: Location
    velocity: Location
    reference: Location | None  # store of a run with the same noise and velocity whose end states count as exact
    is_exact: bool  # compare with the flow map in closed form
    finer: int = 0  # times the point's steps that the reference has, on the same grid; 0: on another, or another solver
    metrics: Mapping[str, float]
    metrics_detail: Mapping[str, Mapping[str, float]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """A point and what was measured of it."""

    request: PointRequest
    size: int  # coordinates of a state
    error: Distance | None  # of the end states; None where there is nothing to compare them with

    @property
    def dimension(self) -> int:
        """The d of the theory's rates: the manifold's where there is one."""
        return self.size if self.request.intrinsic is None else self.request.intrinsic

    @property
    def evaluations(self) -> int:
        """Evaluations of the velocity that one trajectory takes."""
        return self.request.steps * EVALUATIONS_PER_STEP[self.request.solver]

    def quantity(self, name: str) -> tuple[float, float]:
        """Give a measured number and its standard error; NaN where it was not measured."""
        if name == ERROR:
            return (self.error.value, self.error.standard_error) if self.error else (math.nan, math.nan)
        detail = self.request.metrics_detail.get(name, {})
        return self.request.metrics.get(name, math.nan), detail.get("standard_error", 0.0)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity along the values of one key, all other swept values fixed."""

    quantity: str
    against: str  # a swept key, or the evaluations of the velocity
    series: Mapping[str, Any]  # the fixed values
    x: Floats  # [n], ascending
    y: Floats  # [n], positive
    error: Floats  # [n], standard errors of y
    law: PowerLaw
    left_out: int  # points where it is 0, which has no logarithm
    theory: float | None  # order that theory gives; None where it gives none
    intrinsic: int | None  # the manifold's dimension, where the theory's order is by it


def measure_points(points: Sequence[PointRequest], *, progress: Progress) -> list[MeasuredPoint]:
    """Measure the end states of every point, one chunk in memory at a time."""
    found = []
    for k, point in enumerate(points):
        store = TrajectoryStore.open(point.store)
        found.append(MeasuredPoint(request=point, size=math.prod(store.plan.dim), error=_end_state_error(point, store)))
        progress(k + 1, len(points), "end states")
    return found


def _end_state_error(point: PointRequest, store: TrajectoryStore) -> Distance | None:
    """Give sqrt(E ||x_K - x_exact||^2 / d), in the units of the states."""
    if point.is_exact:
        pieces = _against_flow_map(point, store)
    elif point.reference is not None:
        pieces = _against_store(point, store, TrajectoryStore.open(point.reference))
    else:
        return None
    squares = np.concatenate([((x - exact) ** 2).reshape(len(x), -1).mean(1) for x, exact in pieces])
    return root_mean_square(ERROR, squares)


def _against_flow_map(point: PointRequest, store: TrajectoryStore) -> Iterator[tuple[Floats, Floats]]:
    """Give end states beside where the exact characteristics of the same noise are then."""
    field, plan = cast(OracleField, load_velocity(point.velocity)), store.plan
    start, end = (torch.tensor(t, dtype=torch.float64) for t in (plan.times[0], plan.times[-1]))
    for shard, x in _ends(store, point.count):
        x0 = standard_normal(plan.seed, shard.start, shard.stop, plan.dim, stream=TRAJECTORIES)
        # the solver starts from this noise in its own type
        rounded = x0.to(getattr(torch, plan.solver_dtype)).to(torch.float64)
        yield x, field.flow_map(start, end, rounded).numpy()


def _against_store(
    point: PointRequest, store: TrajectoryStore, reference: TrajectoryStore
) -> Iterator[tuple[Floats, Floats]]:
    for shard, x in _ends(store, point.count):
        yield x, reference.read_rows(shard.start, shard.stop)[:, -1].astype(np.float64)


def _ends(store: TrajectoryStore, count: int) -> Iterator[tuple[Shard, Floats]]:
    """Give the last states of the first ``count`` trajectories chunk by chunk, ``[rows, *dim]`` float64."""
    grid = store.grid(count)
    for chunk in range(grid.count):
        shard = grid.chunk(chunk)
        yield shard, store.read_chunk(chunk)[: shard.rows, -1].astype(np.float64)


def reference_error(points: Sequence[MeasuredPoint]) -> float | None:
    """Give the error of the end states that count as exact, by Richardson's rule; None where no point tells.

    A second-order reference with r times the steps of a point on its grid is r^2 times nearer to the exact state, so
    its error is the distance of the two over r^2 - 1. The finest such point tells; of several flows the largest counts.
    """
    found: dict[Location | None, tuple[int, float]] = {}
    for point in points:
        place, finer = point.request.reference, point.request.finer
        if point.error is not None and finer > 1 and (place not in found or finer < found[place][0]):
            found[place] = finer, point.error.value / (finer**2 - 1)
    return max((error for _, error in found.values()), default=None)


def curves_of(points: Sequence[MeasuredPoint]) -> list[Curve]:
    """Give every curve of two points or more: the error against evaluations, metrics against each numeric key.

    Errors of end states have no noise of their own (all points share theirs), so their law is fitted where it holds
    (:func:`tasks.evaluation.convergence.fit_tail`); that of a metric is fitted to all points.
    """
    keys = list(points[0].request.values)
    found = []
    if STEPS_KEY in keys:
        found += _curves(points, ERROR, STEPS_KEY, against=EVALUATIONS)
    names = list(dict.fromkeys(name for point in points for name in point.request.metrics))
    for key in keys:
        if all(_is_scale(point.request.values[key]) for point in points):
            for name in names:
                if name in _FITTED or name.startswith("budget."):
                    found += _curves(points, name, key, against=key)
    return found


def _is_scale(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _curves(points: Sequence[MeasuredPoint], quantity: str, key: str, *, against: str) -> list[Curve]:
    """Give the curves of one quantity, a curve for each combination of the other values, in the order of the points.

    A quantity that is the same at all points does not depend on the key, and makes no curve.
    """
    groups: dict[str, list[MeasuredPoint]] = {}
    for point in points:
        if point.quantity(quantity)[0] >= 0:
            groups.setdefault(repr(_others(point, key)), []).append(point)
    return [
        _curve(group, quantity, key, against=against)
        for group in groups.values()
        if len({point.quantity(quantity)[0] for point in group} - {0.0}) > 1
    ]


def _curve(points: Sequence[MeasuredPoint], quantity: str, key: str, *, against: str) -> Curve:
    positive = [point for point in points if point.quantity(quantity)[0] > 0]
    ordered = sorted(positive, key=lambda point: float(point.request.values[key]))
    x = [p.evaluations if against == EVALUATIONS else p.request.values[key] for p in ordered]
    y, error = zip(*(point.quantity(quantity) for point in ordered), strict=True)
    fit = fit_tail if quantity == ERROR else fit_power_law
    theory = _theory(ordered[0], quantity, against)
    return Curve(
        quantity=quantity,
        against=against,
        series=_others(ordered[0], key),
        x=np.array(x, float),
        y=np.array(y),
        error=np.array(error),
        law=fit(np.array(x, float), np.array(y)),
        left_out=len(points) - len(ordered),
        theory=theory,
        intrinsic=ordered[0].request.intrinsic if theory is not None and against in _COUNT_KEYS else None,
    )


def _theory(point: MeasuredPoint, quantity: str, against: str) -> float | None:
    if quantity == "budget.velocity" and "velocity_error" not in point.request.metrics:
        return None  # the target's velocity is not known: the term is about that of the rows themselves
    return theoretical_order(quantity, against, solver=point.request.solver, dimension=point.dimension)


def _others(point: MeasuredPoint, key: str) -> dict[str, Any]:
    return {name: value for name, value in point.request.values.items() if name != key}


def theoretical_order(quantity: str, against: str, *, solver: str, dimension: int) -> float | None:
    """Give the p of the theory's rate x^-p; None where there is none.

    A solver's own order for the error of its end states. For n rows of data in d dimensions the velocity and W2 fall as
    n^(-1 / (d + 3)), and for m trajectories the fit as m^(-1 / (d + 4)), up to logarithms (arXiv 2405.05512): both are
    upper bounds over a class, and W2 of samples ends at its floor, which its excess has not. With a manifold's own
    dimension as d the rates are expected and not verified in the paper's text. A width has no rate.
    """
    match quantity, against:
        case ("error", "evaluations") | ("budget.euler", "trajectories.steps"):
            return float(ORDERS[solver])
        case (("w2" | "w2_excess" | "velocity_error" | "budget.velocity"), "dataset.count"):
            return 1 / (dimension + 3)
        case (("fit_error" | "budget.fit"), "trajectories.count"):
            return 1 / (dimension + 4)
    return None
