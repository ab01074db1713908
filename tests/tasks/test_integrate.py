"""Simulation into a store: bytes that depend on the plan alone, resumed, grown and repaired."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor

from storage.commits import Ledger
from storage.errors import DamagedError, InputError, PlanConflictError
from storage.models import publish_model
from storage.paths import ledger_path
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.facts import ChunkFacts
from tasks.fit_velocity import load_velocity
from tasks.ingest import ingest
from tasks.integrate import (
    IntegrateRequest,
    integrate,
    plan_trajectories,
    repair_store,
    simulate,
    verify_store,
)
from tasks.simulation import _arithmetic, arithmetic_of, row_labels
from tasks.specs import DatasetSpec, InterpolantSpec, TrajectoriesSpec
from tasks.transport.field import Guided, VelocityField
from tasks.transport.grid import time_grid
from tasks.transport.noise import TRAJECTORIES, standard_normal
from tasks.transport.solver import solve
from tests.local import files_of, on_disk
from tests.storage.disk import deaths

SPEC = TrajectoriesSpec(count=40, steps=4, stop=1.0, chunk_rows=16, sub_batch=8)


def silent(*_: object) -> None:
    pass


def request_of(
    folder: Path,
    *,
    spec: TrajectoriesSpec = SPEC,
    std: float = 2.0,
    mean: float = 0.0,
    seed: int = 3,
    interpolant: str = "linear",
) -> IntegrateRequest:
    publish_model(
        folder / "velocity",
        spec={
            "kind": "oracle",
            "target": {"kind": "gaussian", "mean": [mean, mean], "std": [std, std], "components": 8},
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
        data=folder / "data.zarr",
        velocity=folder / "velocity",
        store=folder / "trajectories.zarr",
    )


def stored(request: IntegrateRequest, rows: int = 40) -> np.ndarray[Any, Any]:
    return TrajectoryStore.open(request.store).read_rows(0, rows)


class CountingExecutor(SerialExecutor):
    """Runs here, and stops after some items as a killed driver would."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit = limit
        self.ran: list[int] = []

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], **_: object) -> Iterator[Any]:
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


@pytest.mark.parametrize(
    ("save", "steps"), [("every-3", [0, 3, 4]), ("every-4", [0, 4]), ("endpoints", [0, 4]), ((0, 1, 4), [0, 1, 4])]
)
def test_a_store_of_some_states_holds_those_of_the_whole_bit_for_bit(
    tmp_path: Path, save: str | tuple[int, ...], steps: list[int]
) -> None:
    whole, some = request_of(tmp_path / "a"), request_of(tmp_path / "b", spec=replace(SPEC, save=save))
    for request in (whole, some):
        integrate(request, executor=SerialExecutor(), progress=silent)
    assert np.array_equal(stored(some), stored(whole)[:, steps])
    plan = TrajectoryStore.open(some.store).plan
    assert plan.times == tuple(k / 4 for k in steps)
    assert plan.solver_times == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert np.asarray(zarr.open_array(some.store / "t", mode="r")[:]).tolist() == list(plan.times)
    assert verify_store(some.store, rows=40).bad == ()


def test_half_precision_is_the_rounded_single_one_computed_in_single(tmp_path: Path) -> None:
    whole, half = request_of(tmp_path / "a"), request_of(tmp_path / "b", spec=replace(SPEC, precision="float16"))
    for request in (whole, half):
        integrate(request, executor=SerialExecutor(), progress=silent)
    assert stored(half).dtype == np.float16
    assert np.array_equal(stored(half), stored(whole).astype(np.float16))


@pytest.mark.parametrize("bits", [1, 10, 22])
def test_rounded_values_keep_so_many_bits_and_lie_within_half_of_the_last(tmp_path: Path, bits: int) -> None:
    spec = replace(SPEC, precision=f"round-{bits}", codec="zstd")
    whole, rounded = request_of(tmp_path / "a"), request_of(tmp_path / "b", spec=spec)
    for request in (whole, rounded):
        integrate(request, executor=SerialExecutor(), progress=silent)
    found, exact = stored(rounded), stored(whole)
    assert found.dtype == np.float32
    assert not (found.view(np.uint32) & ((1 << (23 - bits)) - 1)).any()
    assert (np.abs(found - exact) <= 2.0 ** -(bits + 1) * np.abs(exact)).all()
    assert not np.array_equal(found, exact)


def test_single_precision_that_does_not_fit_half_is_refused(tmp_path: Path) -> None:
    request = request_of(tmp_path, spec=replace(SPEC, precision="float16"), mean=1e6)
    with pytest.raises(FloatingPointError, match=r"trajectory 0 of chunk 0 .* store trajectories.precision = float32"):
        integrate(request, executor=SerialExecutor(), progress=silent)


def test_what_is_stored_is_part_of_the_plan_and_its_absence_changes_no_plan(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    plan = json.loads((tmp_path / "trajectories.ledger" / "plan.json").read_text())
    assert not {"grid_times", "mantissa_bits", "guidance"} & set(plan)
    changed = (replace(SPEC, save="endpoints"), *(replace(SPEC, precision=p) for p in ("round-9", "float16")))
    for spec in changed:
        with pytest.raises(PlanConflictError):
            integrate(replace(request, trajectories=spec), executor=SerialExecutor(), progress=silent)


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


@pytest.mark.slow
def test_a_death_at_any_call_of_a_whole_simulation_is_made_good_by_the_next_one(tmp_path: Path) -> None:
    """The process dies at the k-th storage operation, for every k; what is solved twice is what the ledger lacks."""
    whole = request_of(tmp_path)
    integrate(whole, executor=SerialExecutor(), progress=silent)
    expected = files_of(on_disk(whole.store))
    kept = set()

    def request(k: int) -> IntegrateRequest:
        return replace(whole, store=tmp_path / str(k) / "trajectories.zarr")

    def check(k: int) -> None:
        committed = Ledger(ledger_path(request(k).store)).committed()
        kept.add(len(committed))
        executor = CountingExecutor()
        summary = integrate(request(k), executor=executor, progress=silent)
        assert executor.ran == sorted({0, 1, 2} - committed)
        assert summary.simulated == 3 - len(committed)
        store = TrajectoryStore.open(request(k).store)
        store.sweep()
        assert files_of(on_disk(store.path)) == expected

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            check(k - 1)
        return lambda: integrate(request(k), executor=SerialExecutor(), progress=silent)

    assert deaths(act) > 60
    assert kept == {0, 1, 2, 3}


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
    with pytest.raises(DamagedError, match="the store was planned with"):
        list(simulate(store, [0], velocity=request.velocity, executor=SerialExecutor()))


def test_a_chunk_that_was_recorded_meanwhile_is_not_solved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    store = TrajectoryStore.open(request.store)
    monkeypatch.setattr("tasks.simulation.solve_chunk", None)
    (receipt,) = simulate(store, [1], velocity=request.velocity, executor=SerialExecutor())
    commit = store.ledger.read(1)
    assert (receipt.chunk, receipt.rows, receipt.bytes) == (1, 16, commit.bytes)


def test_chunks_of_another_arithmetic_are_noticed_once_and_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small, large = (request_of(tmp_path, spec=replace(SPEC, count=count)) for count in (16, 64))
    integrate(small, executor=SerialExecutor(), progress=silent)
    assert caplog.messages == []
    monkeypatch.setattr("tasks.simulation._arithmetic", lambda *_: "other")
    integrate(large, executor=SerialExecutor(), progress=silent)
    (message,) = caplog.messages
    assert message.startswith("chunk 1 was computed on")
    assert "whose arithmetic differs in the last bits" in message
    ledger = TrajectoryStore.open(large.store).ledger
    field = load_velocity(large.velocity)
    plan = TrajectoryStore.open(large.store).plan
    ours = arithmetic_of(plan, field)
    assert [ledger.read(chunk).arithmetic for chunk in range(4)] == [ours, "other", "other", "other"]


def test_arithmetic_tells_fields_apart_that_differ_in_a_last_bit(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    plan = plan_trajectories(request, velocity_digest="0" * 32)
    field = load_velocity(request.velocity)
    other = Nudged(field)
    assert arithmetic_of(plan, field) == arithmetic_of(plan, load_velocity(request.velocity))
    assert arithmetic_of(plan, field) != arithmetic_of(plan, other)


class Nudged:
    """A field one of whose values is off by one unit in the last place, as another library's may be."""

    def __init__(self, field: VelocityField) -> None:
        self._field = field

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        found = self._field.velocity(t, x).clone()
        found[-1, -1] = torch.nextafter(found[-1, -1], found.new_tensor(torch.inf))
        return found

    def denoiser(self, t: Tensor, x: Tensor) -> Tensor:
        return self._field.denoiser(t, x)


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
    on_disk(file).write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    found = verify_store(request.store, rows=40)
    assert (found.bad, found.missing) == ((1,), ())
    executor = CountingExecutor()
    repair_store(request, found, executor=executor, progress=silent)
    assert executor.ran == [1]
    assert file.read_bytes() == good
    assert verify_store(request.store, rows=40).bad == ()


class Drift:
    """A field whose rows drift at the speed 1 + their class, and rest without one; it counts its rows."""

    def __init__(self) -> None:
        self.rows = 0

    def velocity(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        self.rows += len(x_t)
        return torch.zeros_like(x_t) if label is None else torch.ones_like(x_t) * (label + 1)[:, None]

    def denoiser(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def given(self, label: Tensor, guidance: float) -> Guided:
        return Guided(field=self, label=label, guidance=guidance)


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> Drift:
    """Let every velocity be this field."""
    field = Drift()
    _arithmetic.cache_clear()
    monkeypatch.setattr("tasks.simulation.load_velocity", lambda folder: field)
    return field


def conditional_request(
    folder: Path, *, spec: TrajectoriesSpec = SPEC, classes: int = 3, seed: int = 3
) -> IntegrateRequest:
    """Ask for trajectories of labelled data, three classes with shares 1/2, 1/3 and 1/6."""
    folder.mkdir(exist_ok=True)
    request = replace(request_of(folder, spec=spec, seed=seed), data=folder / "data.zarr")
    if not request.data.exists():
        label = np.array([0, 0, 0, 1, 1, 2])
        np.savez(folder / "data.npz", x=np.arange(12.0).reshape(6, 2), label=label)
        ingest(DatasetSpec(kind="npz", path=str(folder / "data.npz")), seed=0, path=request.data)
    publish_model(request.velocity, spec={"kind": "drift", "classes": classes, "key": "k"})
    return request


def stored_labels(request: IntegrateRequest) -> list[int]:
    store = TrajectoryStore.open(request.store)
    chunks = range(store.grid(store.rows).count)
    return [int(label) for chunk in chunks for label in store.read_labels(chunk)]


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_each_row_follows_the_guided_velocity_of_its_label(guidance: float, drift: Drift, tmp_path: Path) -> None:
    spec = replace(SPEC, count=200, guidance=guidance, unlabelled_share=0.3, stop=0.5)
    request = conditional_request(tmp_path, spec=spec)
    integrate(request, executor=SerialExecutor(), progress=silent)
    x, label = stored(request, 200), np.array(stored_labels(request))
    assert set(label) == {-1, 0, 1, 2}
    assert np.array_equal(x[:, 0], standard_normal(3, 0, 200, (2,), stream=TRAJECTORIES).float().numpy())
    speed = np.where(label >= 0, guidance * (label + 1), 0)
    moved = (x[:, -1] - x[:, 0]).astype(np.float64)
    assert moved == pytest.approx(0.5 * speed[:, None] * np.ones((1, 2)), abs=2e-5)  # of float32 sums up to about 8


def test_the_plan_takes_its_shares_from_the_data_and_the_rest_from_the_request(drift: Drift, tmp_path: Path) -> None:
    spec = replace(SPEC, guidance=2.0, unlabelled_share=0.25)
    request = conditional_request(tmp_path, spec=spec)
    integrate(request, executor=SerialExecutor(), progress=silent)
    plan = TrajectoryStore.open(request.store).plan
    assert plan.class_shares == pytest.approx((1 / 2, 1 / 3, 1 / 6))
    assert (plan.unlabelled_share, plan.guidance) == (0.25, 2.0)
    label = row_labels(plan, 0, 20_000)
    assert label is not None
    for value, share in ((-1, 0.25), (0, 0.75 / 2), (1, 0.75 / 3), (2, 0.75 / 6)):
        found = float((label == value).double().mean())
        assert abs(found - share) < 4.5 * (share * (1 - share) / 20_000) ** 0.5


def test_a_velocity_without_classes_leaves_guidance_and_labels_out_of_the_plan(tmp_path: Path) -> None:
    plain, asked = (
        plan_trajectories(request_of(tmp_path, spec=spec), velocity_digest="0" * 32)
        for spec in (SPEC, replace(SPEC, guidance=3.0, unlabelled_share=0.5))
    )
    assert plain == asked
    assert row_labels(plain, 0, 10) is None


@pytest.mark.parametrize(("dim", "asked", "rows"), [((64,), 0, 1024), ((3, 32, 32), 0, 16), ((3, 32, 32), 100, 100)])
def test_images_are_solved_a_few_at_once_unless_asked_otherwise(
    tmp_path: Path, dim: tuple[int, ...], asked: int, rows: int
) -> None:
    request = replace(request_of(tmp_path, spec=replace(SPEC, sub_batch=asked)), dim=dim)
    assert plan_trajectories(request, velocity_digest="v").sub_batch == rows


def test_labels_and_bytes_depend_on_seed_and_row_and_not_on_chunks_order_or_attempts(
    drift: Drift, tmp_path: Path
) -> None:
    requests = [
        conditional_request(tmp_path / str(n), spec=replace(SPEC, chunk_rows=n, sub_batch=sub))
        for n, sub in ((5, 8), (64, 3), (16, 1000))
    ]
    for request in requests:
        integrate(request, executor=SerialExecutor(), progress=silent)
    labels = [stored_labels(request) for request in requests]
    assert labels[0] == labels[1] == labels[2]
    assert np.array_equal(stored(requests[0]), stored(requests[1]))
    planned = row_labels(TrajectoryStore.open(requests[0].store).plan, 0, 40)
    assert planned is not None
    assert labels[0] == planned.tolist()
    other = conditional_request(tmp_path / "other", seed=4)
    integrate(other, executor=SerialExecutor(), progress=silent)
    assert stored_labels(other) != labels[0]


def test_an_interrupted_conditional_simulation_ends_with_the_same_bytes(drift: Drift, tmp_path: Path) -> None:
    whole, stopped = (conditional_request(tmp_path / name) for name in ("whole", "stopped"))
    integrate(whole, executor=SerialExecutor(), progress=silent)
    with pytest.raises(KeyboardInterrupt):
        integrate(stopped, executor=CountingExecutor(limit=2), progress=silent)
    executor = CountingExecutor()
    integrate(stopped, executor=executor, progress=silent)
    assert executor.ran == [2]
    for chunk in range(3):
        for name in (f"x/c/{chunk}/0/0", f"label/c/{chunk}"):
            assert (stopped.store / name).read_bytes() == (whole.store / name).read_bytes()


def test_growth_gives_new_rows_their_labels_and_touches_no_chunk(drift: Drift, tmp_path: Path) -> None:
    request = conditional_request(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    before = stored_labels(request)
    more = replace(request, trajectories=replace(SPEC, count=70))
    executor = CountingExecutor()
    integrate(more, executor=executor, progress=silent)
    assert executor.ran == [3, 4]
    planned = row_labels(TrajectoryStore.open(request.store).plan, 0, 70)
    assert planned is not None
    assert stored_labels(more) == planned.tolist()
    assert stored_labels(more)[:40] == before


@pytest.mark.parametrize("is_lost", [False, True])
def test_labels_that_are_damaged_or_lost_are_made_anew(is_lost: bool, drift: Drift, tmp_path: Path) -> None:
    request = conditional_request(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    files = [request.store / name for name in ("x/c/1/0/0", "label/c/1")]
    good = [file.read_bytes() for file in files]
    if is_lost:
        files[1].unlink()
    else:
        on_disk(files[1]).write_bytes(good[1][:50] + bytes([good[1][50] ^ 1]) + good[1][51:])
    found = verify_store(request.store, rows=40)
    assert (found.bad, found.missing) == ((1,), ())
    executor = CountingExecutor()
    repair_store(request, found, executor=executor, progress=silent)
    assert executor.ran == [1]
    assert [file.read_bytes() for file in files] == good
    assert verify_store(request.store, rows=40).bad == ()


def test_an_unguided_field_is_evaluated_once_a_row(drift: Drift, tmp_path: Path) -> None:
    request = conditional_request(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    assert drift.rows == 4 * 48 + 8  # steps by simulated rows, and once what tells the arithmetic


def test_another_guidance_in_the_same_place_is_refused_and_named(drift: Drift, tmp_path: Path) -> None:
    integrate(conditional_request(tmp_path), executor=SerialExecutor(), progress=silent)
    with pytest.raises(PlanConflictError, match=r"guidance = 1\.0, asked for 2\.0"):
        integrate(
            conditional_request(tmp_path, spec=replace(SPEC, guidance=2.0)),
            executor=SerialExecutor(),
            progress=silent,
        )


def test_a_velocity_of_other_classes_than_the_data_has_is_refused(drift: Drift, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"knows 2 classes, .* has 3; estimate the velocity anew"):
        integrate(conditional_request(tmp_path, classes=2), executor=SerialExecutor(), progress=silent)
    assert not (tmp_path / "trajectories.zarr").exists()


def test_the_summary_and_the_progress_tell_bytes_and_the_slowest_chunk(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    summary = integrate(request_of(tmp_path), executor=SerialExecutor(), progress=lambda *args: heard.append(args))
    assert [(done, total) for done, total, *_ in heard] == [(16, 48), (32, 48), (48, 48)]
    slowest = f"slowest chunk {summary.slowest_chunk}: {summary.slowest_seconds:.1f} s"
    assert heard[-1][2] == f"trajectories, 0 MB, {slowest}"
    assert summary.slowest_chunk is not None
    assert heard[-1][3] == ChunkFacts(
        bytes=summary.bytes,
        slowest_chunk=summary.slowest_chunk,
        slowest_seconds=summary.slowest_seconds,
        again=(),
        worker_host=os.uname().nodename,
    )
    assert summary.bytes == 3 * (16 * 5 * 2 * 4 + 4)  # and a CRC32C each
    assert summary.slowest_chunk in (0, 1, 2)
    assert summary.slowest_seconds > 0
    again = integrate(request_of(tmp_path), executor=SerialExecutor(), progress=silent)
    assert (again.simulated, again.bytes, again.slowest_chunk) == (0, 0, None)


class ForgetfulExecutor(SerialExecutor):
    """Gives every other item to a second worker, some of them twice."""

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        again: Callable[[Any], None] = lambda _: None,
        **__: object,
    ) -> Iterator[Any]:
        for item in items:
            for _ in range(2 * (1 - item.chunk % 2)):
                again(item)
            yield function(item)


def test_the_log_has_facts_of_every_commit_and_of_every_chunk_that_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = request_of(tmp_path, spec=replace(SPEC, count=16 * 3))
    with caplog.at_level(logging.DEBUG, logger="tasks.integrate"):
        summary = integrate(request, executor=ForgetfulExecutor(), progress=silent)
    told = [record.__dict__ for record in caplog.records if "event" in record.__dict__]
    assert [(r["event"], r["chunk"]) for r in told] == [
        *[("again", 0)] * 2,
        ("committed", 0),
        ("committed", 1),
        *[("again", 2)] * 2,
        ("committed", 2),
    ]
    commits = [r for r in told if r["event"] == "committed"]
    assert {(r["rows"], r["worker_host"]) for r in commits} == {(16, os.uname().nodename)}
    assert sum(r["bytes"] for r in commits) == summary.bytes
    assert max(r["seconds"] for r in commits) == pytest.approx(summary.slowest_seconds, abs=1e-3)


def test_chunks_that_were_given_to_a_second_worker_are_told_once_each(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    summary = integrate(
        request_of(tmp_path, spec=replace(SPEC, count=16 * 13)),
        executor=ForgetfulExecutor(),
        progress=lambda *args: heard.append(args),
    )
    assert summary.again == heard[-1][3].again == (0, 2, 4, 6, 8, 10, 12)
    assert heard[2][2].endswith(", tried again: 0 2")
    assert heard[-1][2].endswith(", tried again: 0 2 4 6 8 ...")
