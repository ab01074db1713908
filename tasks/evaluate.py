"""STEP evaluate: one-step samples against data, each distance beside its floor; then the pictures and the report.

The floor of a distance is its value between two fresh samples of the target of the same size: what a perfect generator
would score. Where the target can be drawn from, data are fresh draws; otherwise they are random disjoint halves of the
dataset, anew for each repetition.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from torch import nn

from storage.chunks import Shard
from storage.data import DataStore
from storage.errors import InputError
from storage.export import write_report
from storage.models import read_model
from storage.paths import Location
from storage.trajectories import Floats, TrajectoryStore
from tasks.budget import Subject, measure_budget
from tasks.evaluation.comparison import Comparison, Measured, all_pairs, held, measure, split_pairs
from tasks.evaluation.distance import Distance
from tasks.evaluation.frechet import frechet_of_points
from tasks.evaluation.memorisation import memorised_fraction
from tasks.evaluation.report import render
from tasks.evaluation.sinkhorn import sinkhorn
from tasks.evaluation.sliced import sliced_wasserstein
from tasks.evaluation.wasserstein import wasserstein
from tasks.fit_velocity import load_velocity
from tasks.measures import held_out, measure_lipschitz, measure_velocity
from tasks.report import (
    PROJECTIONS,
    SINKHORN_POINTS,
    about_velocity,
    compose,
    draw_figures,
    shown_paths,
    shown_points,
)
from tasks.rows import Indices, RowReader
from tasks.sample import image_shape, sample_rows
from tasks.specs import SYNTHETIC_KINDS, DatasetSpec, EvaluationSpec, Progress, ReportFacts, TrainingPlace
from tasks.storage_choices import measure_storage
from tasks.train_generator import StoredGenerator, load_generator
from tasks.training.device import local_device
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import FRESH_DATA
from tasks.transport.synthetic import draw

logger = logging.getLogger(__name__)

_COMPARED_POINTS = 4000  # samples whose nearest training points are sought, fewer for many dimensions
_COMPARED_VALUES = 2**22  # coordinates of them, at most
_BLOCK_VALUES = 2**20  # coordinates of the training points that they are compared with at once


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What is measured, and where the report goes."""

    evaluation: EvaluationSpec
    dataset: DatasetSpec
    data: Location
    velocity: TrainingPlace
    generator: TrainingPlace
    store: Location
    count: int  # trajectories that are used
    report: Location
    facts: ReportFacts
    device: str = "cpu"  # auto, cpu or cuda: where the velocity is measured


@dataclass(frozen=True, kw_only=True)
class EvaluateSummary:
    """What was measured."""

    metrics: Mapping[str, float]
    metrics_detail: Mapping[str, Mapping[str, float]]  # n and standard error of each
    page: str  # name of the report's page inside its folder
    advice: str  # which error to spend on next


@dataclass(frozen=True, kw_only=True)
class _Sets:
    """What is compared."""

    samples: list[Floats]  # one-step samples in data units, a set a repetition
    comparison: Comparison


def evaluate(request: EvaluateRequest, *, progress: Progress) -> EvaluateSummary:
    """Measure the one-step law and the velocity behind it, and write the report.

    No more than the sets of samples, one pair of sets and a block of data are in memory at once.

    Raises:
        InputError: there is no finished generator, the trajectories are not those that it was fitted to, or a GPU was
            asked for and there is none.
    """
    began = time.monotonic()
    data = DataStore(request.data)
    stored = load_generator(request.generator.folder)
    store = TrajectoryStore.open(request.store)
    _require_same_path(stored, store)
    sets = _sets(request, data, stored)
    measured = _measure(sets.comparison, dim=data.dim, seed=request.evaluation.seed, progress=progress)
    subject = _subject(request, data, store, stored)
    budget, fit_error = measure_budget(subject, w2=measured[0])
    others = [_memorised(sets.samples, data), fit_error]
    velocity, about = _velocity(subject)
    storage = measure_storage(
        store.plan,
        request.velocity.folder,
        count=request.count,
        sample=sets.comparison.within[0].x(),
        standardisation=data.standardisation,
    )
    rows = [row for m in measured for row in (m.distance, m.floor)]
    metrics, detail = _tabulate([*rows, measured[0].ratio, *others, *budget.distances, *velocity])
    paths = store.read_rows(0, min(shown_paths(data.dim), request.count))
    shown = shown_points(data.dim)
    figures = draw_figures(
        data=_to_data(data, data.read(Shard(0, min(shown, data.rows)))),
        samples=np.concatenate([each[:shown] for each in sets.samples])[:shown],
        states=np.asarray(data.standardisation.to_data(paths)),
        times=np.asarray(store.plan.times),
        journals={"velocity": request.velocity.journal, "generator": request.generator.journal},
    )
    content = compose(
        request.facts,
        measured=measured,
        others=others,
        budget=budget,
        velocity=velocity,
        about=about,
        storage=storage,
        figures=figures,
        references={"data.zarr": data.digest, "velocity": store.plan.velocity, "generator": stored.digest},
        seconds=time.monotonic() - began,
    )
    write_report(
        request.report,
        page=render(content),
        pictures={figure.name: figure.png for figure in figures},
        metrics={"metrics": metrics, "metrics_detail": detail, "storage": asdict(storage), "advice": budget.advice},
    )
    return EvaluateSummary(metrics=metrics, metrics_detail=detail, page="index.html", advice=budget.advice)


def _sets(request: EvaluateRequest, data: DataStore, stored: StoredGenerator) -> _Sets:
    """Give sets of one size: fresh draws in all pairs, or random disjoint halves of the dataset, split by split."""
    spec = request.evaluation
    is_drawn = request.dataset.kind in SYNTHETIC_KINDS
    size = spec.samples if is_drawn else min(spec.samples, data.rows // 2)
    ranges = [(k * size, (k + 1) * size) for k in range(spec.repeats)]
    one_step = partial(sample_rows, stored, data.standardisation, steps=1, seed=spec.seed)
    samples = [one_step(start=start, stop=stop) for start, stop in ranges]
    across = [held(x) for x in samples]
    if is_drawn:
        target = request.dataset.target()
        draws = [held(draw(target, start, stop, seed=spec.seed, stream=FRESH_DATA).numpy()) for start, stop in ranges]
        return _Sets(samples=samples, comparison=all_pairs(across, draws))
    orders = [np.random.default_rng([spec.seed, k]).permutation(data.rows)[: 2 * size] for k in range(spec.repeats)]
    halves = [(partial(_take, data, o[:size]), partial(_take, data, o[size:])) for o in orders]
    return _Sets(samples=samples, comparison=split_pairs(across, halves))


def _take(data: DataStore, rows: Indices) -> Floats:
    return _to_data(data, RowReader(data).take(rows))


def _to_data(data: DataStore, x: Floats) -> Floats:
    return np.asarray(data.standardisation.to_data(x))


def _measure(comparison: Comparison, *, dim: tuple[int, ...], seed: int, progress: Progress) -> list[Measured]:
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "w2": wasserstein,
        "sliced_w2": lambda x, y: sliced_wasserstein(x, y, projections=PROJECTIONS, seed=seed),
        "sinkhorn": sinkhorn,
    }
    if image_shape(dim):
        measures["frechet_pixel"] = frechet_of_points
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


def _memorised(samples: list[Floats], data: DataStore) -> Distance:
    """Give the share of samples that sit on a training point, with its binomial standard error."""
    count = max(1, min(_COMPARED_POINTS, _COMPARED_VALUES // math.prod(data.dim)))
    compared = np.concatenate([each[:count] for each in samples])[:count]
    share = memorised_fraction(compared, _data_blocks(data))
    error = math.sqrt(share * (1 - share) / len(compared))
    return Distance(name="memorised_fraction", value=share, standard_error=error, n=len(compared))


def _data_blocks(data: DataStore) -> Iterator[Floats]:
    """Give all data in data units, some rows at a time, mapped anew each time, so that no more stay resident."""
    rows = max(256, min(8192, _BLOCK_VALUES // math.prod(data.dim)))
    for start in range(0, data.rows, rows):
        yield _to_data(data, data.view(Shard(start, min(start + rows, data.rows))))


def _subject(request: EvaluateRequest, data: DataStore, store: TrajectoryStore, stored: StoredGenerator) -> Subject:
    """Gather what the velocity and the error budget are measured of."""
    spec, device = read_model(request.velocity.folder).spec, local_device(request.device)
    field = load_velocity(request.velocity.folder)
    if isinstance(field, nn.Module):
        field.to(device)
    pairs = held_out(
        request.dataset,
        data,
        interpolant=Interpolant(store.plan.interpolant),
        stop=store.plan.times[-1],
        samples=request.evaluation.samples,
        seed=request.evaluation.seed,
        classes=spec.get("classes", 0),
    )
    return Subject(
        data=data,
        store=store,
        stored=stored,
        field=field,
        spec=spec,
        pairs=pairs,
        count=request.count,
        samples=request.evaluation.samples,
        seed=request.evaluation.seed,
        device=device,
    )


def _velocity(subject: Subject) -> tuple[list[Distance], dict[str, str]]:
    """Give the measures of the velocity, and what the report says of them."""
    field, pairs, spec, device = subject.field, subject.pairs, subject.spec, subject.device
    found = measure_velocity(field, pairs, interpolant=subject.interpolant, device=device)
    found += measure_lipschitz(field, subject.store, count=subject.count, seed=subject.seed, device=device)
    is_copying = spec["kind"] == "kernel" and spec.get("bandwidth") == 0
    return found, about_velocity(pairs=pairs.description, stop=pairs.stop, is_copying=is_copying)


def _require_same_path(stored: StoredGenerator, store: TrajectoryStore) -> None:
    plan = store.plan
    if (stored.dim, stored.times) != (plan.dim, plan.times):
        raise InputError(
            f"the generator was fitted to states of shape {list(stored.dim)} at {len(stored.times)} times to "
            f"{stored.times[-1]:g}, and {store.path} holds shape {list(plan.dim)} at {len(plan.times)} times to "
            f"{plan.times[-1]:g}; train it on these"
        )


def _tabulate(rows: list[Distance]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Give the public metrics and, by the same names, their details."""
    metrics = {row.name: row.value for row in rows}
    detail = {row.name: {"standard_error": row.standard_error, "n": float(row.n)} for row in rows}
    return metrics, detail
