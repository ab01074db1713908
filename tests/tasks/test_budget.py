"""The budget of runs whose errors are known: exact and shifted velocities, maps in closed form, data of two rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.data import DataStore
from storage.trajectories import TrajectoryStore
from tasks.budget import Subject, _ends, _reference, _source, measure_budget, path_count
from tasks.evaluation.budget import ErrorBudget
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance
from tasks.executor import SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, fit_velocity, load_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.measures import held_out
from tasks.networks.generator import Generator
from tasks.specs import DatasetSpec, InterpolantSpec, TrajectoriesSpec, VelocitySpec
from tasks.train_generator import StoredGenerator
from tasks.training.device import CPU
from tasks.transport.field import VelocityField
from tasks.transport.interpolant import Interpolant
from tasks.transport.solver import solve

STD, STEPS = 2.0, 16
GAUSSIAN = DatasetSpec(kind="gaussian", mean=0.0, std=STD, count=500, standardise=False)
ORACLE = VelocitySpec(kind="oracle")
W2 = Measured(
    **{
        field: Distance(name=name, value=value, standard_error=0.01, n=9)
        for field, name, value in (("distance", "w2", 1.1), ("floor", "w2_floor", 1.0), ("ratio", "w2_ratio", 1.1))
    }
)


def silent(*_: object) -> None:
    pass


def made(
    folder: Path,
    dataset: DatasetSpec = GAUSSIAN,
    velocity: VelocitySpec = ORACLE,
    *,
    kind: str = "linear",
    trajectories: TrajectoriesSpec | None = None,
) -> Subject:
    """Bring a run to its trajectories, and give it a generator that stays where it is."""
    ingest(dataset, seed=0, path=folder / "data.zarr")
    data, interpolant = DataStore(folder / "data.zarr"), InterpolantSpec(kind=kind)
    spec = trajectories or TrajectoriesSpec(count=128, steps=STEPS, stop=1.0, chunk_rows=64)
    request = VelocityRequest(
        velocity=velocity,
        interpolant=interpolant,
        dataset=dataset,
        stop=spec.stop,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="v"),
    )
    fit_velocity(request, progress=silent)
    integrate(
        IntegrateRequest(
            trajectories=spec,
            interpolant=interpolant,
            seed=0,
            dim=data.dim,
            data=folder / "data.zarr",
            velocity=folder / "velocity",
            store=folder / "trajectories.zarr",
        ),
        executor=SerialExecutor(),
        progress=silent,
    )
    store = TrajectoryStore.open(folder / "trajectories.zarr")
    return with_map(
        Subject(
            data=data,
            store=store,
            stored=StoredGenerator(
                generator=cast(Generator, None),
                times=store.plan.times,
                dim=data.dim,
                digest="",
                classes=len(store.plan.class_shares),
                class_shares=store.plan.class_shares,
            ),
            field=load_velocity(folder / "velocity"),
            spec={"kind": velocity.kind, "bandwidth": velocity.bandwidth},
            pairs=held_out(
                dataset, data, interpolant=Interpolant(kind), stop=spec.stop, samples=200, seed=1, classes=0
            ),
            count=spec.count,
            samples=500,
            seed=1,
            device=CPU,
        ),
        lambda x: x,
    )


def with_map(subject: Subject, ends: Callable[[Tensor], Tensor]) -> Subject:
    """Give the same run with a generator whose jump from 0 to T is this map of the noise."""

    def generator(t: Tensor, s: Tensor, x: Tensor, _: Tensor | None) -> Tensor:
        assert (float(t), float(s)) == (0, subject.stop)
        return ends(x)

    return replace(subject, stored=replace(subject.stored, generator=cast(Generator, generator)))


def euler_factor(steps: int = STEPS, *, stop: float = 1.0) -> float:
    """What Euler's steps multiply N(0, 1) by on its way to N(0, STD^2), linear interpolant."""
    times = [k * stop / steps for k in range(steps)]
    slopes = ((STD**2 * t - (1 - t)) / ((1 - t) ** 2 + STD**2 * t**2) for t in times)
    return math.prod(1 + slope * stop / steps for slope in slopes)


def values(budget: ErrorBudget) -> dict[str, float]:
    return {name: term.value for name, term in budget.terms.items()}


def test_a_generator_that_is_the_euler_map_of_the_exact_velocity_has_the_euler_error_alone(tmp_path: Path) -> None:
    budget, fit_error = measure_budget(with_map(made(tmp_path), lambda x: euler_factor() * x), w2=W2, progress=silent)
    found, known = budget.terms["euler"], math.sqrt(2) * abs(euler_factor() - STD)
    assert abs(found.value - known) < 3 * found.standard_error < 0.2 * known
    assert values(budget) == pytest.approx(
        {"early_stopping": 0, "velocity": 0, "euler": found.value, "fit": 0, "bound": found.value}, abs=2e-6
    )
    assert fit_error.value < 1e-6
    assert (found.n, fit_error.n, budget.law) == (500, 500, "the target")
    assert budget.advice.startswith("Next: trajectories.steps. Twice the 16 take euler from")
    assert "order 0.95 observed, 1 expected" in budget.words["euler"]
    assert "trained on 0 ±" in budget.words["fit"] or "e-0" in budget.words["fit"]
    assert budget.measured.value == pytest.approx(math.sqrt(0.21))


def test_the_fit_is_the_gap_to_the_solver_in_both_units(tmp_path: Path) -> None:
    """The solver's own end states plus 0.3 in each standardised coordinate; on stored trajectories as well."""
    dataset = replace(GAUSSIAN, mean=(3.0, -1.0), std=(2.0, 0.5), standardise=True)
    subject = made(tmp_path, dataset)
    grid = torch.tensor(subject.store.plan.solver_times, dtype=torch.float64)

    def off(x: Tensor) -> Tensor:
        return solve(subject.field, x, grid, solver="euler", interpolant=subject.interpolant)[:, -1] + 0.3

    budget, fit_error = measure_budget(with_map(subject, off), w2=W2, progress=silent)
    whole = 0.3 * float(np.linalg.norm(subject.data.standardisation.scale))
    assert budget.terms["fit"].value == pytest.approx(whole, rel=1e-5)
    assert fit_error.value == pytest.approx(0.3, rel=1e-5)
    assert fit_error.name == "fit_error"
    assert f"trained on {whole:.3g} ±" in budget.words["fit"]
    assert budget.advice.startswith("Next: generator.steps")


def test_a_map_that_knows_its_trajectories_by_heart_wants_more_of_them(tmp_path: Path) -> None:
    subject = made(tmp_path)
    known = subject.store.read_rows(0, 128)
    ends = {tuple(path[0].tolist()): torch.from_numpy(path[-1]) for path in known}

    def by_heart(x: Tensor) -> Tensor:
        return torch.stack([ends.get(tuple(row.tolist()), torch.zeros_like(row)) for row in x])

    budget, _ = measure_budget(with_map(subject, by_heart), w2=W2, progress=silent)
    assert budget.advice.startswith("Next: trajectories.count, above 128")
    assert "trained on 0 ±" in budget.words["fit"]


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_early_stopping_is_its_formula_in_data_units(tmp_path: Path, kind: str) -> None:
    dataset = replace(GAUSSIAN, mean=(3.0, -1.0), std=(2.0, 0.5), standardise=True)
    subject = made(tmp_path, dataset, kind=kind, trajectories=TrajectoriesSpec(count=64, steps=4, stop=0.9))
    budget, _ = measure_budget(subject, w2=W2, progress=silent)
    alpha, beta = (0.1, 0.9) if kind == "linear" else (math.cos(0.45 * math.pi), math.sin(0.45 * math.pi))
    shift, scale = subject.data.standardisation.mean, subject.data.standardisation.scale
    law = (np.array([3.0, -1.0]) - shift) ** 2 + np.array([2.0, 0.5]) ** 2
    known = math.sqrt(float((scale**2 * alpha**2 + (1 - beta) ** 2 * law).sum()))
    assert budget.terms["early_stopping"].value == pytest.approx(known)


@dataclass(frozen=True)
class Shifted:
    """A field that is off by the same vector everywhere."""

    field: VelocityField
    by: Tensor

    def velocity(self, t: Tensor, x_t: Tensor) -> Tensor:
        return self.field.velocity(t, x_t) + self.by

    def denoiser(self, t: Tensor, x_t: Tensor) -> Tensor:
        raise NotImplementedError


def test_a_velocity_that_is_off_by_a_vector_ends_off_by_a_known_one_and_the_bound_holds(tmp_path: Path) -> None:
    """The gap obeys e' = c(t) e + by, so e(1) = STD * by * the integral of (variance of x_t)^(-1/2)."""
    subject = made(tmp_path)
    by = torch.tensor([0.6, -0.8])
    wrong = replace(subject, field=Shifted(subject.field, by), spec={"kind": "network"})
    drift = 0.5 * by  # a generator that is off, too
    budget, _ = measure_budget(with_map(wrong, lambda x: 1.5 * x + drift), w2=W2, progress=silent)
    times = (np.arange(100_000) + 0.5) / 100_000
    known = STD * float((1 / np.sqrt((1 - times) ** 2 + STD**2 * times**2)).mean())
    assert budget.terms["velocity"].value == pytest.approx(known, rel=0.01)
    assert budget.terms["velocity"].standard_error < 0.01  # every path is off by the same
    w2 = math.sqrt(2 * (1.5 - STD) ** 2 + 0.5**2)  # of N(drift, 1.5^2) and N(0, 2^2)
    assert budget.terms["bound"].value > w2
    assert budget.advice.startswith("Next: velocity.steps, or a larger velocity.network: the velocity's loss is ")


def two_rows(folder: Path, *, label: bool = False, width: float = 1.0) -> DatasetSpec:
    folder.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {"x": np.array([[-width, 0.0], [width, 0.0]]), **({"label": [0, 1]} if label else {})}
    np.savez(folder / "rows.npz", **arrays)
    return DatasetSpec(kind="npz", path=str(folder / "rows.npz"), standardise=False)


@pytest.mark.parametrize(
    ("kind", "stop", "width"),
    [
        ("linear", 1.0, 1.0),
        ("linear", 1.0, 0.02),  # which part late
        ("trigonometric", 1.0, 1.0),
        ("foellmer", 0.999, 1.0),
        ("vp", 1.0, 1.0),
    ],
)
def test_characteristics_of_the_data_end_in_their_rows(tmp_path: Path, kind: str, stop: float, width: float) -> None:
    """Of two rows, by symmetry, in that on whose side the noise lies."""
    dataset, velocity = two_rows(tmp_path, width=width), VelocitySpec(kind="kernel", bandwidth=0.0)
    trajectories = TrajectoriesSpec(count=16, steps=4, stop=0.9 * stop)
    subject = made(tmp_path, dataset, velocity, trajectories=trajectories)
    reference = replace(_reference(subject), stop=stop, interpolant=Interpolant(kind))
    reference = replace(reference, field=replace(reference.field, interpolant=Interpolant(kind)))
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    x0 = x0[x0[:, 0].abs() > 0.05]
    ends = reference.ends(x0, label=None)
    alpha = math.sqrt(1 - stop**2) if kind == "foellmer" else 0.0
    rows = np.stack([width * np.sign(x0[:, 0].numpy()), np.zeros(len(x0))], 1)
    assert np.linalg.norm(ends - rows, axis=1).max() < 3.5 * alpha + 1e-3


def test_the_kernel_of_the_data_is_exact_and_one_with_a_bandwidth_is_not(tmp_path: Path) -> None:
    trajectories = TrajectoriesSpec(count=64, steps=8, stop=0.99)
    kernels = {
        width: made(tmp_path / str(width), two_rows(tmp_path), VelocitySpec(kind="kernel", bandwidth=width),
                    trajectories=trajectories)
        for width in (0.0, 0.3)
    }  # fmt: skip
    exact, wide = (measure_budget(kernels[width], w2=W2, progress=silent)[0] for width in (0.0, 0.3))
    assert exact.terms["velocity"].value == 0
    assert exact.words["velocity"] == "the velocity is the exact one"
    assert 0.2 < wide.terms["velocity"].value < 1  # about a bandwidth a coordinate
    assert wide.law == "the 2 rows of the data"
    # rows are (-1, 0) and (1, 0), so the first coordinate's second moment is 1
    assert exact.terms["early_stopping"].value == pytest.approx(math.sqrt(2 * 0.01**2 + 0.01**2))
    assert "end in rows of the data" in wide.words["velocity"]


def test_within_classes_characteristics_end_in_rows_of_the_class(tmp_path: Path) -> None:
    velocity = VelocitySpec(kind="kernel", bandwidth=0.0, conditional=True)
    trajectories = TrajectoriesSpec(count=64, steps=8, stop=0.999)
    subject = made(tmp_path, two_rows(tmp_path, label=True), velocity, trajectories=trajectories)
    ends = _ends(subject, _reference(subject), start=0, stop=50)
    sides = np.sign(ends.exact[:, 0])
    assert 10 < (sides > 0).sum() < 40
    assert ends.exact == pytest.approx(np.stack([sides, np.zeros(50)], 1), abs=6e-3)
    assert abs(ends.solver[0] - ends.exact).max() < 6e-3  # one row a class: straight lines
    assert replace(subject, spec={"kind": "network"}).is_exact is False


def test_where_the_source_is_not_the_noise_paths_begin_at_draws_of_it(tmp_path: Path) -> None:
    velocity = VelocitySpec(kind="kernel", bandwidth=0.0, conditional=True)
    dataset, trajectories = two_rows(tmp_path, label=True), TrajectoriesSpec(count=16, steps=4, stop=0.9)
    plain, vp = (
        made(tmp_path / kind, dataset, velocity, kind=kind, trajectories=trajectories) for kind in ("linear", "vp")
    )
    x0, label = torch.zeros(200, 2), torch.arange(200) % 2
    assert _source(plain, x0, label=label, start=0) is x0
    data = float(vp.interpolant.at(torch.tensor(0.0, dtype=torch.float64)).data)
    rows = np.array([[-1.0, 0.0], [1.0, 0.0]])
    assert (_source(vp, x0, label=label, start=0) / data).numpy() == pytest.approx(rows[label.numpy()], rel=1e-5)
    mixed = (_source(vp, x0, label=None, start=0) / data)[:, 0]
    assert 60 < int((mixed > 0).sum()) < 140
    budget, _ = measure_budget(vp, w2=W2, progress=silent)
    assert 0 < budget.terms["velocity"].value < 0.1  # the exact velocity, from another source


def test_the_characteristics_of_a_mixture_are_those_of_many_steps(tmp_path: Path) -> None:
    dataset = DatasetSpec(kind="mixture", components=3, count=300)
    trajectories = TrajectoriesSpec(count=16, steps=4, stop=0.999)
    subject = made(tmp_path, dataset, kind="trigonometric", trajectories=trajectories)
    x0 = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.linspace(0, 0.999, 401, dtype=torch.float64)
    fine = solve(subject.field, x0, times, solver="heun", interpolant=subject.interpolant)[:, -1]
    assert _reference(subject).ends(x0, label=None) == pytest.approx(fine.numpy(), abs=2e-4)


@pytest.mark.parametrize(
    ("samples", "size", "sums", "paths"),
    [
        (2000, 2, 0, 2000),
        (2000, 784, 0, 167),
        (100, 784, 0, 100),
        (2000, 2, 64 * 50_000, 607),
        (10_000, 2, 64 * 100_000, 303),
        (2000, 64, 64 * 1797, 2000),
        (2000, 784, 64 * 60_000, 125),
        (2000, 3072, 64 * 1_000_000, 8),
        (3, 3072, 64 * 1_000_000, 3),
    ],
)
def test_large_states_and_many_rows_are_measured_on_fewer_paths(samples: int, size: int, sums: int, paths: int) -> None:
    assert path_count(samples, size=size, sums=sums) == paths


def test_blocks_of_rows_are_the_same_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = made(tmp_path)
    whole, whole_fit = measure_budget(subject, w2=W2, progress=silent)
    monkeypatch.setattr("tasks.budget.block_rows", lambda _: 150)
    heard: list[tuple[int, int, str]] = []
    parts, parts_fit = measure_budget(subject, w2=W2, progress=lambda *told: heard.append(told))
    rows = [*range(150, subject.samples, 150), subject.samples]
    assert [done for done, _, _ in heard] == [*rows, *(subject.samples + row for row in rows)]
    assert {told[1:] for told in heard} == {(2 * subject.samples, "paths, error budget")}
    assert values(parts) == pytest.approx(values(whole))
    assert parts_fit.value == pytest.approx(whole_fit.value)
