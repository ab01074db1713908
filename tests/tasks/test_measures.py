"""Measures of a velocity against what is known: floors in closed form, errors that are known beforehand."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.data import DataStore
from storage.trajectories import TrajectoryStore
from tasks.evaluation.distance import Distance
from tasks.executor import SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_kernel import data_field
from tasks.fit_velocity import VelocityRequest, fit_velocity, load_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.measures import (
    HeldOut,
    exact_target,
    gaussian_floor,
    held_out,
    measure_excess_loss,
    measure_lipschitz,
    measure_velocity,
)
from tasks.specs import DatasetSpec, InterpolantSpec, TrajectoriesSpec, VelocitySpec
from tasks.training.device import CPU
from tasks.transport.field import Guided
from tasks.transport.interpolant import Interpolant
from tasks.transport.targets import OracleField

LINEAR = Interpolant("linear")
GAUSSIAN = DatasetSpec(kind="gaussian", mean=(3.0, -1.0), std=(2.0, 0.5), count=500)
MIXTURE = DatasetSpec(kind="mixture", count=500)


def floor(*stds: float, kind: str = "linear", stop: float = 1.0) -> float:
    covariance = torch.diag(torch.tensor(stds, dtype=torch.float64) ** 2)
    return gaussian_floor(covariance, interpolant=Interpolant(kind), stop=stop)


def store_of(folder: Path, dataset: DatasetSpec) -> DataStore:
    ingest(dataset, seed=0, path=folder / "data.zarr")
    return DataStore(folder / "data.zarr")


def pairs_of(dataset: DatasetSpec, data: DataStore, *, samples: int = 1000, stop: float = 0.9) -> HeldOut:
    return held_out(dataset, data, interpolant=LINEAR, stop=stop, samples=samples, seed=1, classes=0)


def exact_field(dataset: DatasetSpec, data: DataStore) -> OracleField:
    law = exact_target(dataset.target(), data)
    assert law is not None
    return OracleField(LINEAR, law)


@dataclass(frozen=True)
class Shifted:
    """A field that is off by the same vector everywhere."""

    field: OracleField
    by: Tensor

    def velocity(self, t: Tensor, x_t: Tensor) -> Tensor:
        return self.field.velocity(t, x_t) + self.by

    def denoiser(self, t: Tensor, x_t: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 2.0, 50.0])
def test_the_floor_of_a_gaussian_is_its_closed_form(sigma: float) -> None:
    assert floor(sigma) == pytest.approx(sigma * math.pi / 2, rel=1e-10)
    assert floor(sigma, kind="trigonometric") == pytest.approx(sigma * math.pi**2 / 4, rel=1e-10)


@pytest.mark.parametrize("stop", [0.5, 0.9, 0.999, 0.9999999])
def test_the_floor_of_the_singular_interpolant_is_its_closed_form(stop: float) -> None:
    assert floor(1.0, kind="foellmer", stop=stop) == pytest.approx(math.atanh(stop) / stop, rel=1e-9)


def test_the_floor_of_several_dimensions_is_the_mean_over_them() -> None:
    assert floor(0.5, 2.0, 1.0) == pytest.approx((floor(0.5) + floor(2.0) + floor(1.0)) / 3, rel=1e-12)
    angle = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    turned = angle @ torch.diag(torch.tensor([0.25, 4.0], dtype=torch.float64)) @ angle.T
    assert gaussian_floor(turned, interpolant=LINEAR, stop=1.0) == pytest.approx(floor(0.5, 2.0), rel=1e-12)


@pytest.mark.parametrize("dataset", [GAUSSIAN, replace(GAUSSIAN, standardise=False), MIXTURE], ids=str)
def test_the_exact_velocity_scores_the_floor_and_has_no_error(tmp_path: Path, dataset: DatasetSpec) -> None:
    data = store_of(tmp_path, dataset)
    loss, least, error = measure_velocity(
        exact_field(dataset, data), pairs_of(dataset, data), interpolant=LINEAR, device=CPU
    )
    assert [found.name for found in (loss, least, error)] == ["velocity_loss", "velocity_floor", "velocity_error"]
    assert error.value == error.standard_error == 0
    assert abs(loss.value - least.value) <= 4 * loss.standard_error
    assert {found.n for found in (loss, least, error)} == {10_000}
    assert (least.standard_error == 0) == (dataset.kind == "gaussian")


def test_the_floor_is_that_of_standardised_units(tmp_path: Path) -> None:
    data = store_of(tmp_path, GAUSSIAN)
    found = measure_velocity(
        exact_field(GAUSSIAN, data), pairs_of(GAUSSIAN, data, stop=1.0), interpolant=LINEAR, device=CPU
    )
    assert found[1].value == pytest.approx(math.pi / 2, rel=0.05)  # 500 rows know the scale to 3 %


@pytest.mark.parametrize("dataset", [GAUSSIAN, MIXTURE], ids=str)
def test_a_known_error_is_measured_and_added_to_the_floor(tmp_path: Path, dataset: DatasetSpec) -> None:
    data = store_of(tmp_path, dataset)
    field = Shifted(exact_field(dataset, data), torch.tensor([0.6, -0.8]))
    loss, least, error = measure_velocity(field, pairs_of(dataset, data), interpolant=LINEAR, device=CPU)
    assert error.value == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert error.standard_error < 1e-5
    assert abs(loss.value - least.value - 0.5) <= 4 * loss.standard_error


def test_the_excess_of_a_loss_is_its_error_on_fresh_draws_and_less_on_rows_known_by_heart(tmp_path: Path) -> None:
    data = store_of(tmp_path, MIXTURE)
    law, fresh = exact_target(MIXTURE.target(), data), pairs_of(MIXTURE, data, stop=0.999)
    assert law is not None
    own = replace(fresh, target=None, count=data.rows)
    shifted = Shifted(exact_field(MIXTURE, data), torch.tensor([0.6, -0.8]))
    by_heart = data_field(data, LINEAR, seed=0)
    off, heart, heart_on_own = (
        measure_excess_loss(field, pairs, law, interpolant=LINEAR, device=CPU)
        for field, pairs in ((shifted, fresh), (by_heart, fresh), (by_heart, own))
    )
    assert abs(off.value - 0.5) < 4 * off.standard_error < 0.1
    assert heart.value > 4 * heart.standard_error
    assert heart_on_own.value < -2 * heart_on_own.standard_error
    assert heart_on_own.n == 500


def test_standard_errors_are_those_seen_over_seeds(tmp_path: Path) -> None:
    data = store_of(tmp_path, MIXTURE)
    field = exact_field(MIXTURE, data)
    found = [
        measure_velocity(
            field, replace(pairs_of(MIXTURE, data, samples=50), seed=seed), interpolant=LINEAR, device=CPU
        )[0]
        for seed in range(40)
    ]
    seen = np.std([loss.value for loss in found], ddof=1)
    told = np.mean([loss.standard_error for loss in found])
    assert 0.5 * told < seen < 1.4 * told  # stratified times make what is told a little too large


def test_a_target_without_an_oracle_has_a_loss_alone(tmp_path: Path) -> None:
    dataset = DatasetSpec(kind="moons", count=300)
    data = store_of(tmp_path, dataset)
    field = exact_field(GAUSSIAN, store_of(tmp_path / "other", GAUSSIAN))
    found = measure_velocity(field, pairs_of(dataset, data), interpolant=LINEAR, device=CPU)
    assert [measure.name for measure in found] == ["velocity_loss"]


def test_drawn_targets_are_measured_on_fresh_draws_and_data_on_stored_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).standard_normal((70, 2)))
    stored = DatasetSpec(kind="npz", path=str(tmp_path / "rows.npz"))
    fresh, rows = (pairs_of(spec, store_of(tmp_path / spec.kind, spec), samples=100) for spec in (GAUSSIAN, stored))
    assert (fresh.description, fresh.count) == ("fresh draws of the target", 1000)
    assert (rows.description, rows.count) == ("stored rows with fresh noise", 70)
    field = exact_field(GAUSSIAN, fresh.data)
    (loss,) = measure_velocity(field, rows, interpolant=LINEAR, device=CPU)
    assert loss.n == 70
    assert loss.value == pytest.approx(floor(1.0, stop=0.9), rel=0.4)  # a standard Gaussian, after standardisation


@pytest.mark.parametrize(
    ("kind", "stop", "measured"),
    [("linear", 1.0, 1.0), ("trigonometric", 1.0, 1.0), ("foellmer", 1.0, 0.999), ("vp", 1.0, 0.999), ("vp", 0.5, 0.5)],
)
def test_times_end_where_the_velocity_is_still_finite(tmp_path: Path, kind: str, stop: float, measured: float) -> None:
    data = store_of(tmp_path, GAUSSIAN)
    pairs = held_out(GAUSSIAN, data, interpolant=Interpolant(kind), stop=stop, samples=10, seed=0, classes=0)
    assert pairs.stop == measured


class Told:
    """A field that remembers which labels it was given."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def velocity(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is not None:
            self.labels.append(label)
        return torch.zeros_like(x_t)

    def denoiser(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def given(self, label: Tensor, guidance: float) -> Guided:
        assert guidance == 1
        return Guided(field=self, label=label, guidance=guidance)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_conditional_velocity_is_told_the_classes_of_its_rows(tmp_path: Path, classes: int) -> None:
    label = np.arange(60) % 3
    np.savez(tmp_path / "rows.npz", x=np.stack([label, label], 1).astype(float), label=label)
    dataset = DatasetSpec(kind="npz", path=str(tmp_path / "rows.npz"))
    data = store_of(tmp_path, dataset)
    pairs = held_out(dataset, data, interpolant=LINEAR, stop=0.9, samples=60, seed=0, classes=classes)
    field = Told()
    measure_velocity(field, pairs, interpolant=LINEAR, device=CPU)
    told = torch.cat(field.labels).tolist() if field.labels else []
    assert sorted(told) == (sorted(label.tolist()) if classes else [])


def trajectories(folder: Path, *, stop: float, count: int = 300) -> tuple[TrajectoryStore, OracleField]:
    dataset = replace(GAUSSIAN, mean=(0.0, 0.0), standardise=False)
    ingest(dataset, seed=0, path=folder / "data.zarr")
    velocity = VelocityRequest(
        velocity=VelocitySpec(kind="oracle"),
        interpolant=InterpolantSpec(),
        dataset=dataset,
        stop=stop,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="v"),
    )
    fit_velocity(velocity, progress=lambda *_: None)
    request = IntegrateRequest(
        trajectories=TrajectoriesSpec(count=count, steps=20, stop=stop, chunk_rows=64),
        interpolant=InterpolantSpec(),
        seed=0,
        dim=(2,),
        data=folder / "data.zarr",
        velocity=velocity.place.folder,
        store=folder / "trajectories.zarr",
    )
    integrate(request, executor=SerialExecutor(), progress=lambda *_: None)
    field = load_velocity(velocity.place.folder)
    assert isinstance(field, OracleField)
    return TrajectoryStore.open(request.store), field


def test_the_lipschitz_constant_of_a_gaussian_is_the_largest_of_its_slopes(tmp_path: Path) -> None:
    """v is linear: its slopes are (t (1 + s^2) - 1)/((1 - t)^2 + t^2 s^2) for the standard deviations s."""
    store, field = trajectories(tmp_path, stop=1.0)
    largest, mean = measure_lipschitz(field, store, count=300, seed=0, device=CPU)
    times = np.array(store.plan.times)[np.linspace(0, 19, 8).round().astype(int)]
    slopes = [(times * (1 + s**2) - 1) / ((1 - times) ** 2 + times**2 * s**2) for s in (2.0, 0.5)]
    norms = abs(np.stack(slopes)).max(0)
    assert (largest.name, mean.name) == ("lipschitz", "lipschitz_mean")
    assert largest.value == pytest.approx(norms.max(), rel=1e-3)
    assert 0.97 * norms.mean() < mean.value <= norms.mean()  # a lower bound, slow where two slopes are nearly equal
    assert largest.n == mean.n == 128 * 8
    assert largest.standard_error < 1e-2 * largest.value


def test_few_trajectories_are_enough(tmp_path: Path) -> None:
    store, field = trajectories(tmp_path, stop=1.0)
    largest, mean = measure_lipschitz(field, store, count=1, seed=0, device=CPU)
    assert largest.n == 8
    assert largest.standard_error == mean.standard_error == 0
    assert isinstance(largest, Distance)
