"""Simulation into a store: bytes that depend on the plan alone, resumed, grown and repaired."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import PlanConflictError
from storage.models import publish_model
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.integrate import IntegrateRequest, integrate, plan_trajectories, repair_store, verify_store
from tasks.specs import InterpolantSpec, TrajectoriesSpec
from tasks.transport.grid import time_grid
from tasks.transport.noise import TRAJECTORIES, standard_normal
from tasks.transport.solver import solve

SPEC = TrajectoriesSpec(count=40, steps=4, stop=1.0, chunk_rows=16, sub_batch=8)


def silent(*_: object) -> None:
    pass


def request_of(
    folder: Path, *, spec: TrajectoriesSpec = SPEC, std: float = 2.0, seed: int = 3, interpolant: str = "linear"
) -> IntegrateRequest:
    publish_model(
        folder / "velocity",
        spec={
            "kind": "oracle",
            "target": {"kind": "gaussian", "mean": [0.0, 0.0], "std": [std, std], "components": 8},
            "interpolant": interpolant,
            "mean": [0.0, 0.0],
            "scale": [1.0, 1.0],
            "key": "k",
        },
    )
    return IntegrateRequest(
        trajectories=spec,
        interpolant=InterpolantSpec(kind=interpolant),
        seed=seed,
        dim=(2,),
        velocity=folder / "velocity",
        store=folder / "trajectories.zarr",
    )


def stored(request: IntegrateRequest, rows: int = 40) -> np.ndarray[Any, Any]:
    return TrajectoryStore.open(request.store).read_rows(0, rows)


class CountingExecutor:
    """Runs here, and stops after some items as a killed driver would."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit = limit
        self.ran: list[int] = []

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if len(self.ran) == self.limit:
                raise KeyboardInterrupt
            self.ran.append(item.chunk)
            yield function(item)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["euler", "exponential", "heun"])
def test_stored_values_equal_a_plain_solver_bit_for_bit(tmp_path: Path, solver: str, dtype: str) -> None:
    request = request_of(tmp_path, spec=replace(SPEC, solver=solver, stop=0.9, precision=dtype))
    integrate(request, executor=SerialExecutor(), progress=silent)
    from tasks.fit_velocity import load_velocity
    from tasks.transport.interpolant import Interpolant

    x0 = standard_normal(3, 0, 40, (2,), stream=TRAJECTORIES).to(getattr(torch, dtype))
    grid = time_grid("uniform", steps=4, stop=0.9)
    expected = solve(load_velocity(request.velocity), x0, grid, solver=solver, interpolant=Interpolant("linear"))
    found = stored(request)
    assert found.dtype == dtype
    assert np.array_equal(found, expected.numpy())


def euler_factor(kind: str, *, sigma: float, steps: int) -> float:
    """The product of (1 + h c(t_k)), c = (alpha alpha' + sigma^2 beta beta') / (alpha^2 + sigma^2 beta^2)."""
    t = np.arange(steps) / steps
    match kind:
        case "linear":
            c = (t * sigma**2 - (1 - t)) / ((1 - t) ** 2 + (sigma * t) ** 2)
        case "foellmer":
            c = t * (sigma**2 - 1) / (1 + t**2 * (sigma**2 - 1))
        case _:
            angle = np.pi * t / 2
            c = np.pi / 2 * (sigma**2 - 1) * np.sin(angle) * np.cos(angle)
            c /= np.cos(angle) ** 2 + sigma**2 * np.sin(angle) ** 2
    return float(np.prod(1 + c / steps))


@pytest.mark.parametrize("kind", ["linear", "foellmer", "trigonometric"])
def test_the_last_state_is_the_euler_factor_times_the_first(tmp_path: Path, kind: str) -> None:
    request = request_of(tmp_path, spec=replace(SPEC, steps=16), interpolant=kind)
    integrate(request, executor=SerialExecutor(), progress=silent)
    x = stored(request)
    factor = euler_factor(kind, sigma=2.0, steps=16)
    assert x[:, -1] == pytest.approx(factor * x[:, 0], rel=2e-6)
    if kind == "linear":
        assert factor == pytest.approx(1.822732, abs=1e-6)


def test_noise_does_not_depend_on_chunks(tmp_path: Path) -> None:
    small, large = (request_of(tmp_path / str(n), spec=replace(SPEC, chunk_rows=n)) for n in (5, 64))
    for request in (small, large):
        integrate(request, executor=SerialExecutor(), progress=silent)
    assert np.array_equal(stored(small), stored(large))


def test_an_interrupted_simulation_goes_on_with_the_chunks_that_are_missing(tmp_path: Path) -> None:
    whole = request_of(tmp_path / "whole")
    integrate(whole, executor=SerialExecutor(), progress=silent)
    request = request_of(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        integrate(request, executor=CountingExecutor(limit=1), progress=silent)
    executor = CountingExecutor()
    summary = integrate(request, executor=executor, progress=silent)
    assert executor.ran == [1, 2]
    assert (summary.chunks, summary.simulated) == (3, 2)
    for chunk in range(3):
        name = f"x/c/{chunk}/0/0"
        assert (request.store / name).read_bytes() == (whole.store / name).read_bytes()


def test_a_raised_count_simulates_only_new_chunks_and_a_lowered_one_none(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    before = stored(request)
    more = replace(request, trajectories=replace(SPEC, count=70))
    executor = CountingExecutor()
    assert integrate(more, executor=executor, progress=silent).count == 70
    assert executor.ran == [3, 4]  # rows 40 to 47 were simulated already, out of sight
    assert np.array_equal(stored(more, 70)[:40], before)
    fewer = replace(request, trajectories=replace(SPEC, count=10))
    executor = CountingExecutor()
    integrate(fewer, executor=executor, progress=silent)
    assert executor.ran == []


def test_another_plan_in_the_same_place_is_refused_and_named(tmp_path: Path) -> None:
    integrate(request_of(tmp_path), executor=SerialExecutor(), progress=silent)
    with pytest.raises(PlanConflictError, match="seed = 3, asked for 4"):
        integrate(request_of(tmp_path, seed=4), executor=SerialExecutor(), progress=silent)


def test_a_velocity_changed_under_the_plan_is_refused(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    plan = plan_trajectories(request, velocity_digest="0" * 32)
    store = TrajectoryStore.create(request.store, plan, rows=40)
    from tasks.integrate import simulate

    with pytest.raises(RuntimeError, match="the store was planned with"):
        simulate(store, [0], velocity=request.velocity, executor=SerialExecutor(), progress=silent)


def test_a_diverging_trajectory_is_named_and_never_committed(tmp_path: Path) -> None:
    request = request_of(tmp_path, spec=replace(SPEC, solver="heun", stop=1.0), std=1e-200)
    with pytest.raises(FloatingPointError, match=r"trajectory 0 of chunk 0 is not finite"):
        integrate(request, executor=SerialExecutor(), progress=silent)
    assert TrajectoryStore.open(request.store).ledger.committed() == set()


def test_repair_makes_just_the_damaged_chunk_anew(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    file = request.store / "x/c/1/0/0"
    good = file.read_bytes()
    file.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    found = verify_store(request.store, rows=40)
    assert (found.bad, found.missing) == ((1,), ())
    executor = CountingExecutor()
    repair_store(request, found, executor=executor, progress=silent)
    assert executor.ran == [1]
    assert file.read_bytes() == good
    assert verify_store(request.store, rows=40).bad == ()
