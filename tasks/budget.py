"""The error budget of a run: paths from the same fresh noise by the generator, the solver, finer steps, and exactly.

The exact velocity is the oracle of a target that has one. Elsewhere it is that of the data themselves (a kernel of
bandwidth 0), the law that the velocity was fitted to, within each class where the run has classes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from storage.chunks import Shard
from storage.data import DataStore
from storage.trajectories import Floats, TrajectoryStore
from tasks.evaluation.advice import Knobs, advise, describe
from tasks.evaluation.budget import (
    Ends,
    ErrorBudget,
    budget_terms,
    early_stopping,
    excess,
    gaps_of,
    joined,
    observed_order,
    richardson,
    squared_gaps,
)
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance
from tasks.facts import Progress
from tasks.fit_kernel import data_field
from tasks.measures import HeldOut, exact_target, measure_excess_loss, root_mean_square
from tasks.rows import RowReader, take_labels
from tasks.sample import sample_labels
from tasks.simulation import given_labels, row_labels
from tasks.train_generator import StoredGenerator
from tasks.training.device import CPU, block_rows, suited_threads
from tasks.training.fitting import labelled
from tasks.transport.field import VelocityField
from tasks.transport.grid import halved, time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.kernel_field import KernelField
from tasks.transport.noise import MEASURES, SAMPLES, TRAJECTORIES, standard_normal
from tasks.transport.solver import EVALUATIONS_PER_STEP, ORDERS, solve
from tasks.transport.targets import GaussianMixture, OracleField

_STATE_VALUES = 2**17  # coordinates of all paths, at most: a network of images takes long for each
_MULTIPLICATIONS = 1e12  # of the sums over the data, at most: less than a minute of a core
_WEIGHT_COST = 510  # multiplications that the weight of a point costs
_FIT_VALUES = 2**25  # coordinates of all states that the solver passes for the one-step map's paths, at most
_LEAST_PATHS = 8  # however many the data
_ORACLE_STEPS, _DATA_STEPS = 256, 32  # of the exact characteristics
_HALVINGS = 10  # of the time that remains before the last step, at most: near rows velocities change with it
_DATA_EVALUATIONS = 2 * (_DATA_STEPS + _HALVINGS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A run whose errors are measured."""

    data: DataStore
    store: TrajectoryStore
    stored: StoredGenerator
    field: VelocityField  # its velocity; a network is moved to the device
    spec: Mapping[str, Any]  # of the velocity
    pairs: HeldOut  # fresh ones, of the measures of the velocity
    count: int  # trajectories that the generator was fitted to
    samples: int  # paths that are asked for
    seed: int
    device: torch.device  # where a network is computed

    @cached_property
    def law(self) -> GaussianMixture | None:
        """The law of the data in standardised units, where it is known."""
        return exact_target(self.pairs.target, self.data)

    @property
    def interpolant(self) -> Interpolant:
        """The interpolant of the flow."""
        return Interpolant(self.store.plan.interpolant)

    @property
    def grid(self) -> Tensor:
        """The K + 1 times of the solver, float64."""
        return torch.tensor(self.store.plan.solver_times, dtype=torch.float64)

    @property
    def stop(self) -> float:
        """T, where paths end."""
        return self.store.plan.solver_times[-1]

    @property
    def is_exact(self) -> bool:
        """Whether the run's velocity is the one that its paths are compared with."""
        if self.law is not None:
            return bool(self.spec["kind"] == "oracle")
        is_of_data = self.spec["kind"] == "kernel" and self.spec["bandwidth"] == 0
        return is_of_data and self.store.plan.guidance == 1

    @property
    def evaluations(self) -> int:
        """Number of times that the solver asks for the velocity on a path."""
        return (len(self.store.plan.solver_times) - 1) * EVALUATIONS_PER_STEP[self.store.plan.solver]

    @property
    def paths(self) -> int:
        """How many paths are followed to their limits."""
        solver = 7 * self.evaluations  # K, 2 K and 4 K
        sums = (solver if self.spec["kind"] == "kernel" else 0) + (_DATA_EVALUATIONS if self.law is None else 0)
        return path_count(self.samples, size=math.prod(self.data.dim), sums=sums * self.data.rows)

    @property
    def fit_paths(self) -> int:
        """How many paths the generator's jumps are compared with: more, for each is solved once."""
        most = _FIT_VALUES // (math.prod(self.data.dim) * self.evaluations)
        return min(self.samples, max(self.paths, most))

    def noise(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Give the noise of samples ``start <= i < stop``, and their classes where there are any."""
        x0 = standard_normal(self.seed, start, stop, self.data.dim, stream=SAMPLES).to(torch.float32)
        return x0, sample_labels(self.stored, start=start, stop=stop, seed=self.seed, label=None)

    def solve(self, x0: Tensor, grid: Tensor, *, label: Tensor | None) -> Floats:
        """Give the end states of the run's solver along a grid, ``[rows, *dim]``, in standardised units."""
        place = self.device if isinstance(self.field, nn.Module) else CPU
        given = given_labels(self.store.plan, self.field, None if label is None else label.to(place))
        ends = _last(given, x0.to(place), grid.to(place), solver=self.store.plan.solver, interpolant=self.interpolant)
        return _wide(ends)

    def solver_ends(self, start: int, stop: int) -> Floats:
        """Give the end states of the run's solver from the noise of samples ``start <= i < stop``."""
        x0, label = self.noise(start, stop)
        return self.solve(x0, self.grid, label=label)


def path_count(samples: int, *, size: int, sums: int) -> int:
    """Give how many paths are followed to their limits: as many as samples, fewer where that takes long.

    Args:
        samples: asked for.
        size: coordinates of a state.
        sums: points of the data that a path's velocities are summed over, in all.
    """
    most = _STATE_VALUES // size
    if sums > 0:
        most = min(most, int(_MULTIPLICATIONS / (sums * (2 * size + _WEIGHT_COST))))
    return min(samples, max(_LEAST_PATHS, most))


def measure_budget(subject: Subject, *, w2: Measured, progress: Progress) -> tuple[ErrorBudget, Distance]:
    """Give the error budget, and ``fit_error``: the fit a coordinate, in standardised units.

    Args:
        subject: the run.
        w2: measured, with its floor.
        progress: told of the paths, after each block.
    """
    reference, scale = _reference(subject), subject.data.standardisation.scale
    all_paths = subject.paths + subject.fit_paths

    def blocks(before: int, count: int) -> Iterator[tuple[int, int]]:
        for start, stop in _blocks(count, subject.data.dim):
            yield start, stop
            progress(before + stop, all_paths, "paths, error budget")

    with suited_threads(subject.data.dim):
        gaps = joined(
            [
                gaps_of(_ends(subject, reference, start=start, stop=stop), scale=scale)
                for start, stop in blocks(0, subject.paths)
            ]
        )
        fit = np.concatenate(
            [_fit_squares(subject, start=start, stop=stop) for start, stop in blocks(subject.paths, subject.fit_paths)]
        )
    moments = _second_moments(subject)
    stopping = _stopping(subject, moments, subject.stop)
    terms = budget_terms(gaps, fit=fit[:, 0], stopping=stopping, rows=subject.data.rows)
    knobs = _knobs(subject, order=observed_order(gaps), moments=moments)
    law = f"the {subject.data.rows:,} rows of the data" if subject.law is None else "the target"
    budget = ErrorBudget(
        terms=terms,
        measured=excess(w2),
        law=law,
        words=describe(knobs, law=law),
        advice=advise(terms, knobs),
    )
    return budget, root_mean_square("fit_error", fit[:, 1])


def _blocks(count: int, dim: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    step = block_rows(dim)
    for start in range(0, count, step):
        yield start, min(start + step, count)


def _ends(subject: Subject, reference: "_Reference", *, start: int, stop: int) -> Ends:
    """Follow the paths of samples ``start <= i < stop``."""
    x0, label = subject.noise(start, stop)
    grid = subject.grid
    once, twice, four_times = (
        subject.solve(x0, times, label=label) for times in (grid, halved(grid), halved(halved(grid)))
    )
    source = _source(subject, x0, label=label, start=start)
    exact = reference.ends(source, label=label)
    if not subject.is_exact:
        limit = richardson(four_times, twice, order=ORDERS[subject.store.plan.solver])
    else:
        limit = exact if source is x0 else reference.ends(x0, label=label)
    return Ends(solver=(once, twice, four_times), limit=limit, exact=exact)


def _fit_squares(subject: Subject, *, start: int, stop: int) -> Floats:
    """Give ||g(0, T, x0) - x_K||^2 of samples ``start <= i < stop``, ``[stop - start, 2]``.

    In data units, and a coordinate in standardised units.
    """
    x0, label = subject.noise(start, stop)
    mapped, ends = _mapped(subject, x0, label=label), subject.solve(x0, subject.grid, label=label)
    coordinate = np.full(subject.data.dim, 1 / math.sqrt(math.prod(subject.data.dim)))
    scales = (subject.data.standardisation.scale, coordinate)
    return np.stack([squared_gaps(mapped, ends, scale=scale) for scale in scales], axis=1)


def _mapped(subject: Subject, x0: Tensor, *, label: Tensor | None) -> Floats:
    place = subject.stored.device
    times, given = subject.grid.to(place), None if label is None else label.to(place)
    with torch.no_grad():
        return _wide(labelled(subject.stored.generator, given)(times[0], times[-1], x0.to(place)))


def _last(field: VelocityField, x: Tensor, grid: Tensor, *, solver: str, interpolant: Interpolant) -> Tensor:
    """Give the last states alone, ``[rows, *dim]``."""
    return solve(field, x, grid, solver=solver, interpolant=interpolant, kept=(len(grid) - 1,))[:, 0]


def _wide(x: Tensor) -> Floats:
    return np.asarray(x.cpu().numpy().astype(np.float64))


def _source(subject: Subject, x0: Tensor, *, label: Tensor | None, start: int) -> Tensor:
    """Give draws of the law at t = 0, alpha_0 x0 + beta_0 x1: the noise itself for all interpolants but ``vp``."""
    c = subject.interpolant.at(torch.tensor(0.0, dtype=torch.float64))
    if c.data == 0:
        return x0
    data, rng = subject.data, np.random.default_rng([subject.seed, MEASURES, start])
    if label is None:
        rows = rng.integers(data.rows, size=len(x0))
    else:
        labels = take_labels(data, np.arange(data.rows))
        rows = np.array([rng.choice(np.flatnonzero(labels == k)) for k in label.tolist()])
    return c.noise * x0 + c.data * torch.from_numpy(RowReader(data).take(rows))


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The exact velocity."""

    field: OracleField | KernelField
    interpolant: Interpolant
    stop: float

    def ends(self, x: Tensor, *, label: Tensor | None) -> Floats:
        """Give where the characteristics from ``x [n, *dim]`` at t = 0 are at T."""
        if isinstance(self.field, KernelField):
            given = self.field if label is None else self.field.given(label, 1.0)
            return _wide(self._follow(given, x, steps=_DATA_STEPS))
        wide = x.to(torch.float64)
        if len(self.field.target.components) > 1:
            return _wide(self._follow(self.field, wide, steps=_ORACLE_STEPS))
        begin, end = (torch.tensor(t, dtype=torch.float64) for t in (0.0, self.stop))
        return _wide(self.field.flow_map(begin, end, wide))

    def _follow(self, field: VelocityField, x: Tensor, *, steps: int) -> Tensor:
        """Solve by ``heun`` to the last step, which is short and exponential: it is finite at t = 1 as well."""
        even = time_grid("uniform", steps=steps, stop=self.stop)
        halves = 1 - (1 - even[-2]) * 0.5 ** torch.arange(1, _HALVINGS + 1)
        grid = torch.cat([even[:-1], halves[halves < self.stop], even[-1:]])
        near = _last(field, x, grid[:-1], solver="heun", interpolant=self.interpolant)
        return _last(field, near, grid[-2:], solver="exponential", interpolant=self.interpolant)


def _reference(subject: Subject) -> _Reference:
    field = (
        data_field(subject.data, subject.interpolant, seed=subject.seed)
        if subject.law is None
        else OracleField(subject.interpolant, subject.law)
    )
    return _Reference(field=field, interpolant=subject.interpolant, stop=subject.stop)


def _second_moments(subject: Subject) -> Floats:
    """Give E x1_i^2 in standardised units, ``[*dim]``: of the law where it is known, else of all rows."""
    data = subject.data
    if subject.law is not None:
        return np.asarray(subject.law.second_moments().numpy()).reshape(data.dim)
    total, rows = np.zeros(data.dim), block_rows(data.dim)
    for start in range(0, data.rows, rows):
        block = data.view(Shard(start, min(start + rows, data.rows)))
        total += np.square(block, dtype=np.float64).sum(0)
    return total / data.rows


def _stopping(subject: Subject, moments: Floats, stop: float) -> float:
    c = subject.interpolant.at(torch.tensor(stop, dtype=torch.float64))
    scale = np.broadcast_to(subject.data.standardisation.scale, moments.shape)
    return early_stopping(float(c.noise), float(c.data), scale=scale, second_moments=moments)


def _knobs(subject: Subject, *, order: float | None, moments: Floats) -> Knobs:
    plan = subject.store.plan
    later = 1 - (1 - subject.stop) / 10
    return Knobs(
        solver=plan.solver,
        steps=len(plan.solver_times) - 1,
        expected_order=ORDERS[plan.solver],
        order=order,
        stop=subject.stop,
        later=later,
        later_stopping=_stopping(subject, moments, later),
        trajectories=subject.count,
        trained_fit=_trained_fit(subject),
        velocity=subject.spec["kind"],
        is_exact=subject.is_exact,
        is_guided=plan.guidance != 1,
        losses=None if subject.law is None else _losses(subject, subject.law),
    )


def _trained_fit(subject: Subject) -> Distance:
    """Give the fit on stored trajectories, in data units."""
    plan, scale = subject.store.plan, subject.data.standardisation.scale
    squares = []
    grid = subject.store.grid(min(subject.samples, subject.count))
    for chunk in range(grid.count):  # each is read once
        shard = grid.chunk(chunk)
        ends = subject.store.read_chunk(chunk)[: shard.rows, -1]
        for low, high in _blocks(shard.rows, plan.dim):
            start, stop = shard.start + low, shard.start + high
            x0 = standard_normal(plan.seed, start, stop, plan.dim, stream=TRAJECTORIES).to(torch.float32)
            mapped = _mapped(subject, x0, label=row_labels(plan, start, stop))
            squares.append(squared_gaps(mapped, ends[low:high], scale=scale))
    return root_mean_square("trained_fit", np.concatenate(squares))


def _losses(subject: Subject, law: GaussianMixture) -> tuple[Distance, Distance]:
    """Give by how much the velocity's loss exceeds the exact one's, on fresh draws and on the rows of the data."""
    own = replace(subject.pairs, target=None, count=min(subject.pairs.count, subject.data.rows))
    fresh, rows = (
        measure_excess_loss(subject.field, pairs, law, interpolant=subject.interpolant, device=subject.device)
        for pairs in (subject.pairs, own)
    )
    return fresh, rows
