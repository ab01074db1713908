"""STEP evaluate: one-step samples against data, each distance beside its floor; then the pictures and the report.

The floor of a distance is its value between two fresh samples of the target of the same size: what a perfect generator
would score. Where the target can be drawn from, data are fresh draws; otherwise they are random disjoint halves of the
dataset, anew for each repetition.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from storage.chunks import Shard
from storage.data import DataStore
from storage.export import write_report
from storage.trajectories import Floats, TrajectoryStore
from tasks.evaluation.comparison import Comparison, Measured, all_pairs, measure, split_pairs
from tasks.evaluation.distance import Distance
from tasks.evaluation.frechet import Moments, frechet
from tasks.evaluation.memorisation import memorised_fraction
from tasks.evaluation.report import render
from tasks.evaluation.sinkhorn import sinkhorn
from tasks.evaluation.sliced import sliced_wasserstein
from tasks.evaluation.wasserstein import wasserstein
from tasks.fit_velocity import load_velocity
from tasks.report import (
    PROJECTIONS,
    SHOWN_PATHS,
    SHOWN_POINTS,
    SINKHORN_POINTS,
    compose,
    draw_figures,
)
from tasks.sample import image_shape, sample_rows
from tasks.specs import SYNTHETIC_KINDS, DatasetSpec, EvaluationSpec, Progress, ReportFacts, TrainingPlace
from tasks.train_generator import StoredGenerator, load_generator
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import FRESH_DATA, SAMPLES, standard_normal
from tasks.transport.solver import solve
from tasks.transport.synthetic import draw

logger = logging.getLogger(__name__)

_COMPARED_POINTS = 4000  # samples whose nearest training points are sought


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What is measured, and where the report goes."""

    evaluation: EvaluationSpec
    dataset: DatasetSpec
    data: Path
    velocity: TrainingPlace
    generator: TrainingPlace
    store: Path
    count: int  # trajectories that are used
    report: Path
    facts: ReportFacts


@dataclass(frozen=True, kw_only=True)
class EvaluateSummary:
    """What was measured."""

    metrics: Mapping[str, float]
    metrics_detail: Mapping[str, Mapping[str, float]]  # n and standard error of each
    page: str  # name of the report's page inside its folder


def evaluate(request: EvaluateRequest, *, progress: Progress) -> EvaluateSummary:
    """Measure the one-step law and write the report.

    Raises:
        InputError: there is no finished generator.
    """
    began = time.monotonic()
    data = DataStore(request.data)
    everything = read_all(data)
    stored = load_generator(request.generator.folder)
    store = TrajectoryStore.open(request.store)
    comparison = _comparison(request, data, everything, stored)
    measured = _measure(comparison, dim=data.dim, seed=request.evaluation.seed, progress=progress)
    samples = np.concatenate(list({id(pair.x): pair.x for pair in comparison.across}.values()))
    others = [_memorised(samples, everything), _fit_error(request, data, store, stored)]
    rows = [row for m in measured for row in (m.distance, m.floor)]
    metrics, detail = _tabulate([*rows, measured[0].ratio, *others])
    paths = store.read_rows(0, min(SHOWN_PATHS, request.count))
    figures = draw_figures(
        data=everything[:SHOWN_POINTS],
        samples=samples[:SHOWN_POINTS],
        states=np.asarray(data.standardisation.to_data(paths)),
        times=np.asarray(store.plan.times),
        journals={"velocity": request.velocity.journal, "generator": request.generator.journal},
    )
    content = compose(
        request.facts,
        measured=measured,
        others=others,
        figures=figures,
        references={"data.zarr": data.digest, "velocity": store.plan.velocity, "generator": stored.digest},
        seconds=time.monotonic() - began,
    )
    write_report(
        request.report,
        page=render(content),
        pictures={figure.name: figure.png for figure in figures},
        metrics={"metrics": metrics, "metrics_detail": detail},
    )
    return EvaluateSummary(metrics=metrics, metrics_detail=detail, page="index.html")


def _comparison(request: EvaluateRequest, data: DataStore, everything: Floats, stored: StoredGenerator) -> Comparison:
    """Give sets of one size: fresh draws in all pairs, or random disjoint halves of the dataset, split by split."""
    spec = request.evaluation
    is_drawn = request.dataset.kind in SYNTHETIC_KINDS
    size = spec.samples if is_drawn else min(spec.samples, data.rows // 2)
    ranges = [(k * size, (k + 1) * size) for k in range(spec.repeats)]
    samples = [
        sample_rows(stored, data.standardisation, start=start, stop=stop, steps=1, seed=spec.seed)
        for start, stop in ranges
    ]
    if is_drawn:
        target = request.dataset.target()
        draws = [draw(target, start, stop, seed=spec.seed, stream=FRESH_DATA).numpy() for start, stop in ranges]
        return all_pairs(samples, draws)
    orders = [np.random.default_rng([spec.seed, k]).permutation(len(everything)) for k in range(spec.repeats)]
    return split_pairs(samples, [(everything[o[:size]], everything[o[size : 2 * size]]) for o in orders])


def read_all(data: DataStore) -> Floats:
    """Give the whole dataset in data units, ``[rows, *dim]``."""
    return np.asarray(data.standardisation.to_data(data.read(Shard(0, data.rows))))


def _measure(comparison: Comparison, *, dim: tuple[int, ...], seed: int, progress: Progress) -> list[Measured]:
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "w2": wasserstein,
        "sliced_w2": lambda x, y: sliced_wasserstein(x, y, projections=PROJECTIONS, seed=seed),
        "sinkhorn": sinkhorn,
    }
    if image_shape(dim):
        measures["frechet_pixel"] = _frechet
    done = 0
    found = []
    for name, distance in measures.items():

        def told(name: str = name) -> None:
            nonlocal done
            done += 1
            progress(done, comparison.size * len(measures), f"distances, {name}")

        sets = comparison.first(SINKHORN_POINTS) if name == "sinkhorn" else comparison
        found.append(measure(name, distance, sets, told=told))
    return found


def _frechet(x: Floats, y: Floats) -> float:
    sides = []
    for side in (x, y):
        moments = Moments()
        moments.update(side)
        sides.append(moments)
    return frechet(*sides)


def _memorised(samples: Floats, everything: Floats) -> Distance:
    """Give the share of samples that sit on a training point, with its binomial standard error."""
    samples = samples[:_COMPARED_POINTS]
    share = memorised_fraction(samples, everything)
    error = math.sqrt(share * (1 - share) / len(samples))
    return Distance(name="memorised_fraction", value=share, standard_error=error, n=len(samples))


def _fit_error(request: EvaluateRequest, data: DataStore, store: TrajectoryStore, stored: StoredGenerator) -> Distance:
    """Give sqrt(E ||g(0, T, x_0) - x_K||^2) in data units, x_K the solver's end state from the same fresh noise."""
    plan = store.plan
    x0 = standard_normal(request.evaluation.seed, 0, request.evaluation.samples, stored.dim, stream=SAMPLES)
    x0 = x0.to(torch.float32)
    grid = torch.tensor(plan.times, dtype=torch.float64)
    field = load_velocity(request.velocity.folder)
    ends = solve(field, x0, grid, solver=plan.solver, interpolant=Interpolant(plan.interpolant))[:, -1]
    with torch.no_grad():
        mapped = stored.generator(grid[0], grid[-1], x0)
    gaps = data.standardisation.scale * (mapped - ends).numpy().astype(np.float64)
    squares = (gaps.reshape(len(gaps), -1) ** 2).sum(1)
    value = math.sqrt(squares.mean())
    error = squares.std(ddof=1) / math.sqrt(len(squares)) / (2 * value) if value > 0 else 0.0
    return Distance(name="budget.fit", value=value, standard_error=error, n=len(squares))


def _tabulate(rows: list[Distance]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Give the public metrics and, by the same names, their details."""
    metrics = {row.name: row.value for row in rows}
    detail = {row.name: {"standard_error": row.standard_error, "n": float(row.n)} for row in rows}
    return metrics, detail
