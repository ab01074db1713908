"""STEP evaluate: one-step samples against data, each distance beside its floor; then the pictures and the report.

The floor of a distance is its value between two fresh samples of the target of the same size: what a perfect generator
would score. Where the target can be drawn from, data are fresh draws; otherwise they are random disjoint halves of the
dataset, anew for each repetition. Frechet distances are of more samples, to all data (frechet.py).
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import nn

from storage.data import DataStore
from storage.errors import InputError
from storage.export import write_report
from storage.models import read_model
from storage.paths import Location
from storage.trajectories import TrajectoryStore
from tasks.budget import Subject, measure_budget
from tasks.distances import draw_sets, measure_sets
from tasks.evaluation.distance import Distance
from tasks.evaluation.report import render
from tasks.facts import Progress, ReportFacts, TrainingPlace
from tasks.features import LawFeatures, load_law_features
from tasks.fit_velocity import load_velocity
from tasks.frechet import measure_frechet, require_enough
from tasks.gallery import gather
from tasks.measures import held_out, measure_lipschitz, measure_velocity
from tasks.neighbours import compare_with_data, measure_agreement, measure_balance, measure_memorised
from tasks.report import about_velocity, compose, draw_figures, step_details
from tasks.specs import DatasetSpec, EvaluationSpec
from tasks.storage_choices import measure_storage
from tasks.train_generator import StoredGenerator, load_generator
from tasks.training.device import local_device
from tasks.transport.interpolant import Interpolant

logger = logging.getLogger(__name__)


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
    device: str = "cpu"  # auto, cpu or cuda: where the networks are measured


@dataclass(frozen=True, kw_only=True)
class EvaluateSummary:
    """What was measured."""

    metrics: Mapping[str, float]
    metrics_detail: Mapping[str, Mapping[str, float]]  # n and standard error of each
    page: str  # name of the report's page inside its folder
    advice: str  # which error to spend on next


def evaluate(request: EvaluateRequest, *, progress: Progress) -> EvaluateSummary:
    """Measure the one-step law and the velocity behind it, and write the report.

    No more than the sets of samples, one pair of sets, a block of data and the covariances of three sides are in memory
    at once.

    Raises:
        InputError: there is no finished generator, the trajectories are not those that it was fitted to, a GPU was
            asked for and there is none, or :func:`require_measurable` refuses.
    """
    began = time.monotonic()
    spec, data = request.evaluation, DataStore(request.data)
    features = require_measurable(spec, request.dataset, request.data, device=request.device)
    stored = load_generator(request.generator.folder, device=local_device(request.device))
    store = TrajectoryStore.open(request.store)
    _require_same_path(stored, store)
    sets = draw_sets(spec, request.dataset, data, stored)
    compared = compare_with_data(sets.samples, data)
    scores = measure_frechet(
        spec,
        request.dataset,
        data,
        stored,
        first=sets.samples,
        features=features,
        told=lambda done, total: progress(done, total, "points, Frechet distances"),
    )
    measured = measure_sets(sets.comparison, seed=spec.seed, progress=progress)
    measured += [*scores.measured, *measure_balance(compared, data)]
    subject = _subject(request, data, store, stored)
    budget, fit_error = measure_budget(subject, w2=measured[0], progress=progress)
    others = [measure_memorised(compared), fit_error, *measure_agreement(compared, data, stored, seed=spec.seed)]
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
    shown = gather(subject, samples=sets.samples, compared=compared)
    figures = draw_figures(
        shown, journals={"velocity": request.velocity.journal, "generator": request.generator.journal}
    )
    content = compose(
        request.facts,
        measured=measured,
        others=others,
        budget=budget,
        velocity=velocity,
        about=about | scores.about,
        storage=storage,
        figures=figures,
        references={"data.zarr": data.digest, "velocity": store.plan.velocity, "generator": stored.digest}
        | _references(features),
        details=step_details(request.facts, _sizes(request, data, store)),
        seconds=time.monotonic() - began,
    )
    write_report(
        request.report,
        page=render(content),
        pictures={figure.name: figure.png for figure in figures},
        metrics={"metrics": metrics, "metrics_detail": detail, "storage": asdict(storage), "advice": budget.advice},
    )
    return EvaluateSummary(metrics=metrics, metrics_detail=detail, page="index.html", advice=budget.advice)


def require_measurable(
    spec: EvaluationSpec, dataset: DatasetSpec, data: Location, *, device: str = "cpu"
) -> LawFeatures | None:
    """Refuse, before any training, data and features that could not be measured after it; give the features.

    Raises:
        InputError: the features or their weights cannot be had or do not suit the data, or rows or samples are too few.
    """
    features = load_law_features(spec, device=local_device(device)) if spec.features else None
    require_enough(spec, dataset, DataStore(data), features)
    return features


def require_features(spec: EvaluationSpec) -> None:
    """Refuse features that cannot be imported, or whose weights cannot be had; whether they suit the data comes later.

    Raises:
        InputError: they cannot.
    """
    load_law_features(spec)


def _references(features: LawFeatures | None) -> dict[str, str]:
    """Give what the features are, for the report."""
    if features is None:
        return {}
    weights = {"evaluation.features_weights": features.digest} if features.digest else {}
    return {"evaluation.features": features.name} | weights


def _sizes(request: EvaluateRequest, data: DataStore, store: TrajectoryStore) -> dict[str, int]:
    """Give the bytes that each step stored; of trajectories as many as the first chunk's make of all."""
    chunks = -(-request.count // store.plan.chunk_rows)
    return {
        "ingest": data.rows * (4 * math.prod(data.dim) + (8 if data.classes else 0)),
        "fit_velocity": len(read_model(request.velocity.folder).weights),
        "integrate": chunks * store.ledger.read(0).bytes,
        "train_generator": len(read_model(request.generator.folder).weights),
    }


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
    for row in rows:
        if row.n_reference is not None:
            detail[row.name]["n_reference"] = float(row.n_reference)
    return metrics, detail
