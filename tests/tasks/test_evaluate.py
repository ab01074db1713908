"""The evaluate step on trainings of seconds: what it measures on drawn targets, rows, images and classes."""

import html
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.chunks import Shard
from storage.data import DataStore, Values
from storage.errors import InputError
from storage.trajectories import TrajectoryStore
from tasks.evaluate import EvaluateRequest, EvaluateSummary, _require_same_path, _subject, evaluate
from tasks.executor import SerialExecutor
from tasks.facts import ReportFacts, TrainingPlace
from tasks.fit_velocity import VelocityRequest, fit_velocity, train_velocity
from tasks.gallery import _by_evaluations
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.sample import sample_labels, sample_rows
from tasks.specs import (
    DatasetSpec,
    EvaluationSpec,
    GeneratorSpec,
    InterpolantSpec,
    NetworkSpec,
    TrajectoriesSpec,
    VelocitySpec,
)
from tasks.train_generator import GeneratorRequest, load_generator, train_characteristics
from tasks.training.group import alone

pytestmark = pytest.mark.slow  # pictures

NETWORK = NetworkSpec(width=16, depth=2)
GAUSSIAN = DatasetSpec(kind="gaussian", mean=(3.0, -1.0), std=(2.0, 0.5), count=400)
FACTS = ReportFacts(
    run="r",
    title="t",
    created="today",
    configuration="",
    versions={},
    seeds={},
    batches={},
    seconds={},
    is_reused={},
    orchestration={},
    lineage={},
)


def silent(*_: object) -> None:
    pass


def road(folder: Path, dataset: DatasetSpec, velocity: VelocitySpec) -> EvaluateRequest:
    """Go all the way to a generator, in this process."""
    ingest(dataset, seed=0, path=folder / "data.zarr")
    places = {name: TrainingPlace(folder=folder / name, key="k") for name in ("velocity", "generator")}
    request = VelocityRequest(
        velocity=velocity,
        interpolant=InterpolantSpec(),
        dataset=dataset,
        stop=0.9,
        seed=0,
        data=folder / "data.zarr",
        place=places["velocity"],
    )
    if velocity.kind == "network":
        train_velocity(request, alone())
    else:
        fit_velocity(request, progress=silent)
    store = folder / "trajectories.zarr"
    integrate(
        IntegrateRequest(
            trajectories=TrajectoriesSpec(count=200, steps=6, stop=0.9, chunk_rows=64),
            interpolant=InterpolantSpec(),
            seed=0,
            dim=DataStore(folder / "data.zarr").dim,
            data=folder / "data.zarr",
            velocity=folder / "velocity",
            store=store,
        ),
        executor=SerialExecutor(),
        progress=silent,
    )
    train_characteristics(
        GeneratorRequest(
            generator=GeneratorSpec(network=NETWORK, steps=20, batch_size=64, workers=1, warmup=2),
            count=200,
            seed=0,
            data=folder / "data.zarr",
            velocity=folder / "velocity",
            store=store,
            place=places["generator"],
        ),
        alone(),
    )
    return EvaluateRequest(
        evaluation=EvaluationSpec(samples=60, repeats=3),
        dataset=dataset,
        data=folder / "data.zarr",
        velocity=places["velocity"],
        generator=places["generator"],
        store=store,
        count=200,
        report=folder / "report",
        facts=FACTS,
    )


def network(*, conditional: bool = False) -> VelocitySpec:
    return VelocitySpec(network=NETWORK, steps=20, batch_size=64, workers=1, warmup=2, conditional=conditional)


def npz(folder: Path, x: np.ndarray, label: np.ndarray | None = None) -> DatasetSpec:
    folder.mkdir(exist_ok=True, parents=True)
    arrays = {"x": x} if label is None else {"x": x, "label": label}
    np.savez(folder / "rows.npz", **arrays)  # type: ignore[arg-type]
    return DatasetSpec(kind="npz", path=str(folder / "rows.npz"))


def told(request: EvaluateRequest, summary: EvaluateSummary) -> str:
    """Check that what is told is complete, and give the report's page."""
    assert summary.metrics.keys() == summary.metrics_detail.keys()
    for name, detail in summary.metrics_detail.items():
        assert np.isfinite(summary.metrics[name])
        assert detail["n"] >= 1
        assert detail["standard_error"] >= 0
    kept = json.loads((request.report / "metrics.json").read_text())
    assert kept["metrics"] == dict(summary.metrics)
    assert kept["advice"] == summary.advice
    assert summary.metrics["budget.bound"] > summary.metrics["w2_excess"]
    assert sum(row["is_used"] for row in kept["storage"]["rows"]) == 1
    assert kept["storage"]["trajectories"] == 200
    page = (request.report / summary.page).read_text()
    assert len(page) < 10**7
    assert kept["storage"]["advice"] in html.unescape(page)
    assert summary.advice in html.unescape(page)
    assert all(name in page for name in summary.metrics if not name.endswith("_floor"))
    return page


def test_a_drawn_target_with_its_exact_velocity(tmp_path: Path) -> None:
    request = road(tmp_path, GAUSSIAN, VelocitySpec(kind="oracle"))
    summary = evaluate(request, progress=silent)
    page = told(request, summary)
    assert summary.metrics["velocity_error"] == summary.metrics["budget.velocity"] == 0
    excess = summary.metrics["velocity_loss"] - summary.metrics["velocity_floor"]
    assert abs(excess) < 4 * summary.metrics_detail["velocity_loss"]["standard_error"]
    assert summary.metrics["lipschitz"] >= summary.metrics["lipschitz_mean"] > 0
    assert "on fresh draws of the target, times to 0.9" in page
    assert {"w2", "w2_floor", "w2_ratio", "sliced_w2", "sinkhorn", "memorised_fraction", "w2_excess"} <= (
        summary.metrics.keys()
    )
    assert summary.metrics_detail["memorised_fraction"]["n"] == 3 * 60  # every set of samples
    assert summary.metrics_detail["w2"]["n"] == 60
    # a fit's gap in data units is the standardised one times the scale of each coordinate, 2 and 0.5
    scale = 2**0.5 * summary.metrics["fit_error"]
    assert 0.5 * 0.9 * scale < summary.metrics["budget.fit"] < 2 * 1.1 * scale
    assert "a coordinate, in standardised units" in page
    data, store = DataStore(request.data), TrajectoryStore.open(request.store)
    stored = load_generator(request.generator.folder)
    shown = _by_evaluations(_subject(request, data, store, stored))
    assert list(shown) == ["data", "1 evaluation", "2 evaluations", "5 evaluations", "solver, 6 steps"]
    gaps = shown["1 evaluation"][:60] - shown["solver, 6 steps"][:60]  # of the noise that the fit is measured with
    assert np.sqrt((gaps**2).sum(1).mean()) == pytest.approx(summary.metrics["budget.fit"], rel=1e-4)
    assert evaluate(request, progress=silent).metrics == summary.metrics
    stored = load_generator(request.generator.folder)
    late = replace(stored, times=(*stored.times[:-1], 0.95))
    with pytest.raises(InputError, match=r"fitted to .* \[2\] at 7 times to 0\.95, and .* \[2\] at 7 times to 0\.9;"):
        _require_same_path(late, TrajectoryStore.open(request.store))


def test_a_trained_velocity_is_measured_against_the_exact_one(tmp_path: Path) -> None:
    request = road(tmp_path, replace(GAUSSIAN, kind="mixture", mean=0.0, std=0.5), network())
    summary = evaluate(request, progress=silent)
    told(request, summary)
    metrics, detail = summary.metrics, summary.metrics_detail
    assert metrics["velocity_error"] > 0
    assert metrics["velocity_loss"] > metrics["velocity_floor"]
    gap = metrics["velocity_loss"] - metrics["velocity_floor"] - metrics["velocity_error"] ** 2
    assert abs(gap) < 4 * detail["velocity_loss"]["standard_error"]


def test_images_are_measured_on_stored_rows_without_ever_being_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).standard_normal((300, 1, 8, 8))
    request = road(tmp_path, npz(tmp_path / "in", x), network())
    request = replace(request, evaluation=replace(request.evaluation, features="torch:abs"))
    read = DataStore.read

    def small(self: DataStore, shard: Shard) -> Values:
        assert shard.rows <= 64
        return read(self, shard)

    monkeypatch.setattr(DataStore, "read", small)
    summary = evaluate(request, progress=silent)
    page = told(request, summary)
    assert "on stored rows with fresh noise" in page
    assert {"frechet_pixel", "frechet_features", "gaussian_w2", "velocity_loss", "lipschitz"} <= summary.metrics.keys()
    assert "evaluation.features</dt><dd>torch:abs" in page
    detail = summary.metrics_detail["frechet_pixel"]
    assert (detail["n"], detail["n_reference"]) == (300, 300)
    assert summary.metrics_detail["frechet_pixel_floor"]["n"] == 150
    for name in ("samples", "evaluations", "neighbours", "characteristics"):
        assert f'id="figure-{name}"' in page
        assert (request.report / f"{name}.png").is_file()
    assert not {"velocity_floor", "velocity_error"} & summary.metrics.keys()


def test_classes_are_followed(tmp_path: Path) -> None:
    label = np.arange(200) % 2
    x = 4.0 * label[:, None] + np.random.default_rng(0).standard_normal((200, 2))
    request = road(tmp_path, npz(tmp_path / "in", x, label), network(conditional=True))
    summary = evaluate(request, progress=silent)
    page = told(request, summary)
    assert "1-nearest-neighbour classifier (in pixel space" in page
    stored, data = load_generator(request.generator.folder), DataStore(request.data)
    samples = sample_rows(stored, data.standardisation, start=0, stop=180, steps=1, seed=0)
    asked = sample_labels(stored, start=0, stop=180, seed=0, label=None)
    assert asked is not None
    nearest = label[np.linalg.norm(samples[:, None] - x, axis=2).argmin(1)]
    assert summary.metrics["class_agreement"] == (nearest == asked.numpy()).mean()
    assert summary.metrics["class_balance"] == pytest.approx(abs(nearest.mean() - 0.5))
    assert summary.metrics_detail["class_balance"]["n"] == 180
