"""What each way of storing costs and loses, measured on a run's own trajectories, so that a user can choose.

The first rows of the store are simulated anew with all their states, then encoded and decoded in memory by the very
code that a store uses.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from storage.data import Standardisation
from storage.encoding import ChunkEncoding
from storage.errors import StorageError
from storage.paths import Location
from storage.specs import TrajectoryPlan
from storage.trajectories import Floats, row_bytes
from tasks.evaluation.choices import StorageRow, StorageTable, advise, coupled_distance, relative_change, spread
from tasks.evaluation.wasserstein import wasserstein
from tasks.saving import precision_name, save_name, saved_steps, stored_precision
from tasks.simulation import planned_velocity, solve_chunk
from tasks.training.device import one_thread
from tasks.transport.field import VelocityField
from tasks.transport.solver import ORDERS

_ROWS, _STATE_BYTES = 1024, 32 * 2**20  # simulated anew, at most
_TIMED_BYTES = 8 * 2**20  # as computed, encoded at once for the clock: Zarr itself takes a millisecond a chunk
_REPEATS, _ENOUGH_SECONDS = 5, 0.2
_POINTS = 1000  # of each side of W2


@dataclass(frozen=True, kw_only=True)
class StorageChoice:
    """How trajectories are kept; the fields are those of the section ``trajectories``."""

    precision: str
    codec: str
    save: str | tuple[int, ...]

    def plan(self, whole: TrajectoryPlan) -> TrajectoryPlan:
        """Give the plan that keeps what a plan of all states computes in this way."""
        steps = saved_steps(self.save, last=len(whole.times) - 1)
        dtype, mantissa_bits = stored_precision(self.precision)
        return replace(
            whole,
            times=tuple(whole.times[k] for k in steps),
            grid_times=whole.times if len(steps) < len(whole.times) else (),
            dtype=dtype,
            codec=self.codec,
            mantissa_bits=mantissa_bits,
        )


def choice_of(plan: TrajectoryPlan) -> StorageChoice:
    """Give the way in which a plan keeps its trajectories."""
    return StorageChoice(
        precision=precision_name(plan.dtype, plan.mantissa_bits),
        codec=plan.codec,
        save=save_name(plan.kept, last=len(plan.solver_times) - 1),
    )


def choices(last: int) -> list[StorageChoice]:
    """Give a handful of ways to keep trajectories of ``last`` steps, the plainest first."""
    ways: tuple[tuple[str, str, str], ...] = (
        ("float32", "none", "all"),
        ("float32", "lz4", "all"),
        ("float32", "zstd", "all"),
        ("round-12", "zstd", "all"),
        ("round-8", "zstd", "all"),
        ("float16", "none", "all"),
        ("float16", "zstd", "all"),
        ("float32", "none", f"every-{min(4, last)}"),
        ("float32", "none", "endpoints"),
        ("float16", "none", "endpoints"),
    )
    return [StorageChoice(precision=precision, codec=codec, save=save) for precision, codec, save in ways]


def measure_storage(
    plan: TrajectoryPlan, velocity: Location, *, count: int, sample: Floats, standardisation: Standardisation
) -> StorageTable:
    """Measure the ways of storing on the first of ``count`` trajectories, that of the plan among them.

    Args:
        plan: of the run's store.
        velocity: folder of its velocity.
        count: trajectories that the run uses.
        sample: of the data, ``[n, *dim]``, in data units.
        standardisation: of the data.
    """
    try:
        field = planned_velocity(velocity, plan)
    except StorageError as error:
        return StorageTable(left_out=str(error))
    whole = _whole(plan, count=count)
    with one_thread():
        states = solve_chunk(whole, 0, field=field)
    ends = states[:, -1].copy()
    if spread(ends) == 0:
        return StorageTable(left_out="the end states of the trajectories are all the same")
    judge = _Judge(ends, sample[:_POINTS], standardisation)
    used = choice_of(plan)
    ways: dict[TrajectoryPlan, StorageChoice] = {}
    for way in [*choices(len(whole.times) - 1), used]:
        ways.setdefault(way.plan(whole), way)  # of few steps, all may be every fourth and both ends
    timed_rows = max(len(states), min(plan.chunk_rows, _TIMED_BYTES // states[0].nbytes))
    rows = [
        _measure(states, way, found, judge=judge, is_used=found == used.plan(whole), timed_rows=timed_rows)
        for found, way in ways.items()
    ]
    with one_thread():
        solver_error = _solver_error(whole, ends, field=field)
    return StorageTable(
        rows=rows,
        trajectories=len(states),
        timed_rows=timed_rows,
        raw_bytes=states[0].nbytes,
        points=min(_POINTS, len(ends)),
        w2=judge.w2,
        solver_error=solver_error,
        advice=advise(rows, solver_error=solver_error),
    )


def _whole(plan: TrajectoryPlan, *, count: int) -> TrajectoryPlan:
    """Give the plan of the first rows with all their states, as they are computed."""
    size = row_bytes(plan.dim, times=len(plan.solver_times), dtype=plan.solver_dtype)
    return replace(
        plan,
        times=plan.solver_times,
        grid_times=(),
        dtype=plan.solver_dtype,
        mantissa_bits=0,
        codec="none",
        chunk_rows=max(1, min(_ROWS, count, _STATE_BYTES // size)),
    )


class _Judge:
    """Tells what storing does to end states, each precision once: codecs lose nothing, and every way keeps the end."""

    def __init__(self, exact: Floats, sample: Floats, standardisation: Standardisation) -> None:
        self._exact = exact
        self._sample = sample
        self._standardisation = standardisation
        self._known: dict[tuple[str, int], tuple[float, float, float]] = {}
        self.w2 = wasserstein(self._points(exact), sample)

    def change(self, ends: Floats, plan: TrajectoryPlan) -> tuple[float, float, float]:
        """Give the relative change, the change of W2 and its bound."""
        precision = plan.dtype, plan.mantissa_bits
        if precision not in self._known:
            self._known[precision] = self._measured(ends)
        return self._known[precision]

    def _measured(self, ends: Floats) -> tuple[float, float, float]:
        if np.array_equal(ends, self._exact):
            return 0.0, 0.0, 0.0
        points = self._points(ends)
        w2_change = wasserstein(points, self._sample) - self.w2
        return relative_change(ends, self._exact), w2_change, coupled_distance(points, self._points(self._exact))

    def _points(self, ends: Floats) -> Floats:
        return np.asarray(self._standardisation.to_data(ends[:_POINTS].astype(np.float64)))


def _measure(
    states: Floats, way: StorageChoice, plan: TrajectoryPlan, *, judge: _Judge, is_used: bool, timed_rows: int
) -> StorageRow:
    """Store ``states [rows, times, *dim]`` in a way, in memory; the clock sees them repeated to ``timed_rows``."""
    with np.errstate(over="ignore"):  # what does not fit is told as such
        kept = states[:, list(plan.kept)].astype(plan.dtype)
    encoding = ChunkEncoding(plan)
    content = encoding.encode(kept)
    stored = encoding.decode(content)
    change = judge.change(stored[:, -1], plan) if np.isfinite(stored).all() else (None, None, None)
    timed, chunk = ChunkEncoding(replace(plan, chunk_rows=timed_rows)), np.resize(kept, (timed_rows, *kept.shape[1:]))
    encoded, size = timed.encode(chunk), timed_rows * states[0].nbytes
    return StorageRow(
        precision=way.precision,
        codec=way.codec,
        save=way.save if isinstance(way.save, str) else "steps " + ", ".join(map(str, way.save)),
        bytes=len(content) / len(states),
        encode=size / _seconds(lambda: timed.encode(chunk)) / 1e9,
        decode=size / _seconds(lambda: timed.decode(encoded)) / 1e9,
        error=change[0],
        w2_change=change[1],
        w2_bound=change[2],
        is_used=is_used,
    )


def _seconds(work: Callable[[], object]) -> float:
    """Give the median seconds of some repetitions, fewer where one takes long."""
    took: list[float] = []
    while len(took) < _REPEATS and sum(took) < _ENOUGH_SECONDS:
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _solver_error(whole: TrajectoryPlan, ends: Floats, *, field: VelocityField) -> float | None:
    """Estimate the solver's own error of the end states from half as many steps, in units of their spread (Richardson).

    None for a single step, which has no half, and where half as many steps do not come to an end.
    """
    times = whole.times
    if len(times) < 3:
        return None
    halved = tuple(times[k] for k in saved_steps("every-2", last=len(times) - 1))
    try:
        coarse = solve_chunk(replace(whole, times=(times[0], times[-1]), grid_times=halved), 0, field=field)
    except FloatingPointError:
        return None
    return relative_change(coarse[:, -1], ends) / (2.0 ** ORDERS[whole.solver] - 1)
