"""STEP evaluate: one-step samples against data, each distance beside its floor; then the pictures and the report.

The floor of a distance is its value between two fresh samples of the target of the same size: what a perfect generator
would score. Where the target can be drawn from, data are fresh draws; otherwise they are random disjoint halves of the
dataset, anew for each repetition.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from storage.chunks import Shard
from storage.data import DataStore
from storage.export import write_report
from storage.trajectories import Floats, TrajectoryStore
from tasks.evaluation.distance import Distance, repeated
from tasks.evaluation.frechet import Moments, frechet
from tasks.evaluation.memorisation import memorised_fraction
from tasks.evaluation.report import render
from tasks.evaluation.sinkhorn import sinkhorn
from tasks.evaluation.sliced import sliced_wasserstein
from tasks.evaluation.wasserstein import wasserstein
from tasks.fit_velocity import load_velocity
from tasks.report import SHOWN_PATHS, SHOWN_POINTS, Measured, ReportFacts, compose, draw_figures
from tasks.sample import image_shape, sample_rows
from tasks.specs import SYNTHETIC_KINDS, DatasetSpec, EvaluationSpec, Progress, TrainingPlace
from tasks.train_generator import StoredGenerator, load_generator
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import FRESH_DATA, SAMPLES, standard_normal
from tasks.transport.solver import solve
from tasks.transport.synthetic import draw

logger = logging.getLogger(__name__)

_SINKHORN_POINTS = 1000  # its cost is quadratic and its iterations are many
_COMPARED_POINTS = 4000  # samples whose nearest training points are sought
_PROJECTIONS = 256

Pairs = list[tuple[Floats, Floats, Floats]]  # (samples, data, other data) of each repetition, [n, *dim] in data units


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
    pairs = list(_repetitions(request, data, everything, stored))
    measured = _measure(pairs, dim=data.dim, seed=request.evaluation.seed, progress=progress)
    others = [_memorised(pairs, everything), _fit_error(request, data, store, stored)]
    ratio = _ratio(measured[0])
    metrics, detail = _tabulate([row for m in measured for row in (m.distance, m.floor)] + [ratio, *others])
    paths = store.read_rows(0, min(SHOWN_PATHS, request.count))
    figures = draw_figures(
        data=everything[:SHOWN_POINTS],
        samples=np.concatenate([samples for samples, _, _ in pairs])[:SHOWN_POINTS],
        states=np.asarray(data.standardisation.to_data(paths)),
        times=np.asarray(store.plan.times),
        journals={"velocity": request.velocity.journal, "generator": request.generator.journal},
    )
    content = compose(
        request.facts,
        measured=measured,
        others=others,
        ratio=ratio,
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


def _repetitions(
    request: EvaluateRequest, data: DataStore, everything: Floats, stored: StoredGenerator
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Give (samples, data, other data) of each repetition, all of one size, no row twice within a repetition."""
    spec = request.evaluation
    is_drawn = request.dataset.kind in SYNTHETIC_KINDS
    size = spec.samples if is_drawn else min(spec.samples, data.rows // 2)
    for k in range(spec.repeats):
        samples = sample_rows(
            stored, data.standardisation, start=k * size, stop=(k + 1) * size, steps=1, seed=spec.seed
        )
        if is_drawn:
            fresh = draw(
                request.dataset.target(), 2 * k * size, 2 * (k + 1) * size, seed=spec.seed, stream=FRESH_DATA
            ).numpy()
        else:
            order = np.random.default_rng([spec.seed, k]).permutation(len(everything))
            fresh = everything[order[: 2 * size]]
        yield samples, fresh[:size], fresh[size:]


def read_all(data: DataStore) -> Floats:
    """Give the whole dataset in data units, ``[rows, *dim]``."""
    return np.asarray(data.standardisation.to_data(data.read(Shard(0, data.rows))))


def _measure(pairs: Pairs, *, dim: tuple[int, ...], seed: int, progress: Progress) -> list[Measured]:
    measures: list[tuple[str, str, int, Callable[[Floats, Floats], float]]] = [
        ("w2", "exact 2-Wasserstein distance", len(pairs[0][0]), wasserstein),
        (
            "sliced_w2",
            f"2-Wasserstein distance over {_PROJECTIONS} random directions",
            len(pairs[0][0]),
            lambda x, y: sliced_wasserstein(x, y, projections=_PROJECTIONS, seed=seed),
        ),
        (
            "sinkhorn",
            "root of the debiased Sinkhorn divergence",
            min(_SINKHORN_POINTS, len(pairs[0][0])),
            lambda x, y: sinkhorn(x[:_SINKHORN_POINTS], y[:_SINKHORN_POINTS]),
        ),
    ]
    if image_shape(dim):
        measures.append(("frechet_pixel", "Frechet distance of raw pixels", len(pairs[0][0]), _frechet))
    found: list[Measured] = []
    total = 2 * len(pairs) * len(measures)
    for name, about, n, measure in measures:
        values, floors = [], []
        for samples, fresh, other in pairs:
            values.append(measure(samples, fresh))
            floors.append(measure(fresh, other))
            progress(2 * (len(found) * len(pairs) + len(values)), total, f"distances, {name}")
        found.append(
            Measured(distance=repeated(name, values, n=n), floor=repeated(f"{name}_floor", floors, n=n), about=about)
        )
    return found


def _frechet(x: Floats, y: Floats) -> float:
    sides = []
    for side in (x, y):
        moments = Moments()
        moments.update(side)
        sides.append(moments)
    return frechet(*sides)


def _memorised(pairs: Pairs, everything: Floats) -> Distance:
    """Give the share of samples that sit on a training point, with its binomial standard error."""
    samples = np.concatenate([samples for samples, _, _ in pairs])[:_COMPARED_POINTS]
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


def _ratio(w2: Measured) -> Distance:
    """Give W2 over its floor, with the errors of both."""
    ratio = w2.distance.value / w2.floor.value
    relative = math.hypot(w2.distance.standard_error / w2.distance.value, w2.floor.standard_error / w2.floor.value)
    return Distance(name="w2_ratio", value=ratio, standard_error=ratio * relative, n=w2.distance.n)


def _tabulate(rows: list[Distance]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Give the public metrics and, by the same names, their details."""
    metrics = {row.name: row.value for row in rows}
    detail = {row.name: {"standard_error": row.standard_error, "n": float(row.n)} for row in rows}
    return metrics, detail
