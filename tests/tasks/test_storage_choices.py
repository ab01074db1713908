"""Ways of storing a run's own trajectories, against closed forms of a Gaussian."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.data import Standardisation
from storage.models import publish_model
from storage.specs import TrajectoryPlan
from tasks.evaluation.choices import StorageRow, StorageTable
from tasks.integrate import plan_trajectories
from tasks.specs import TrajectoriesSpec
from tasks.storage_choices import choice_of, choices, measure_storage
from tasks.transport.noise import TRAJECTORIES, standard_normal
from tests.tasks.test_integrate import euler_factor, request_of

SPEC = TrajectoriesSpec(count=300, steps=16, stop=1.0, chunk_rows=128, sub_batch=64)
SCALE, SHIFT = 3.0, 5.0  # of the data, beyond standardised units


def planned(folder: Path, spec: TrajectoriesSpec = SPEC, *, mean: float = 0.0) -> TrajectoryPlan:
    request = request_of(folder, spec=spec, mean=mean)
    digest = publish_model(
        request.velocity,
        spec={
            "kind": "oracle",
            "target": {"kind": "gaussian", "mean": [mean, mean], "std": [2.0, 2.0], "components": 8},
            "interpolant": "linear",
            "mean": [0.0, 0.0],
            "scale": [1.0, 1.0],
            "key": "k",
        },
    )
    return plan_trajectories(request, velocity_digest=digest)


def measured(folder: Path, plan: TrajectoryPlan, *, count: int = SPEC.count) -> StorageTable:
    sample = SHIFT + SCALE * 2 * np.random.default_rng(0).standard_normal((200, 2))
    standardisation = Standardisation(mean=np.full(2, SHIFT), scale=np.full(2, SCALE))
    return measure_storage(plan, folder / "velocity", count=count, sample=sample, standardisation=standardisation)


def by_name(table: StorageTable) -> dict[str, StorageRow]:
    return {f"{row.precision} {row.codec} {row.save}": row for row in table.rows}


def test_bytes_and_errors_of_a_gaussian_are_those_that_they_must_be(tmp_path: Path) -> None:
    table = measured(tmp_path, planned(tmp_path))
    rows = by_name(table)
    checksum = 4 / 300
    assert (table.trajectories, table.points, table.raw_bytes) == (300, 300, 17 * 2 * 4)
    assert table.timed_rows == 300  # no fewer than there are, and otherwise those of a store's chunk
    assert rows["float32 none all"].bytes == pytest.approx(17 * 2 * 4 + checksum)
    assert rows["float16 none all"].bytes == pytest.approx(17 * 2 * 2 + checksum)
    assert rows["float32 none every-4"].bytes == pytest.approx(5 * 2 * 4 + checksum)
    assert rows["float16 none endpoints"].bytes == pytest.approx(2 * 2 * 2 + checksum)
    assert rows["float32 zstd all"].bytes < rows["float32 none all"].bytes
    ends = euler_factor("linear", sigma=2.0, steps=16) * standard_normal(3, 0, 300, (2,), stream=TRAJECTORIES).numpy()
    spread = math.sqrt(ends.var(0).mean())
    root_mean_square = math.sqrt((ends**2).mean())
    for row in table.rows:
        bits = {"round-12": 12, "round-8": 8, "float16": 10}.get(row.precision)
        assert row.error is not None
        assert row.w2_change is not None
        assert row.w2_bound is not None
        if bits is None:
            assert (row.error, row.w2_change, row.w2_bound) == (0.0, 0.0, 0.0)
            continue
        largest = 2.0 ** -(bits + 1) * root_mean_square / spread
        # a value's error is uniform in half of its last bit, which is 1 to 2 times 2^-bits of the value
        assert largest / (2 * math.sqrt(3)) <= row.error <= largest
        assert row.w2_bound == pytest.approx(row.error * spread * SCALE * math.sqrt(2), rel=1e-4)
        assert 0 < abs(row.w2_change) <= row.w2_bound
    assert all(row.encode > 0 and row.decode > 0 for row in table.rows)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("steps", [16, 7])
def test_the_solvers_error_is_told_by_half_as_many_steps(solver: str, order: int, steps: int, tmp_path: Path) -> None:
    found = measured(tmp_path, planned(tmp_path, replace(SPEC, solver=solver, steps=steps))).solver_error
    assert found is not None
    if solver == "euler" and steps == 16:
        fine, coarse = (euler_factor("linear", sigma=2.0, steps=k) for k in (16, 8))
        x0 = standard_normal(3, 0, 300, (2,), stream=TRAJECTORIES).numpy()
        expected = (fine - coarse) * math.sqrt((x0**2).mean()) / (fine * math.sqrt(x0.var(0).mean()))
        assert found == pytest.approx(expected, rel=1e-5)
        assert found == pytest.approx((2.0 - fine) / fine, rel=0.15)  # the error itself, to the next order
    else:
        assert 1e-5 < found < {"euler": 0.3, "heun": 0.02}[solver]


def test_a_single_step_has_no_half(tmp_path: Path) -> None:
    table = measured(tmp_path, planned(tmp_path, replace(SPEC, steps=1, solver="heun")))
    assert table.solver_error is None
    assert {row.save for row in table.rows} == {"all"}
    assert "a thousandth" in table.advice


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "float32 none all"),
        ({"precision": "float16", "save": "endpoints"}, "float16 none endpoints"),
        ({"precision": "round-9", "codec": "lz4", "save": (0, 1, 16)}, "round-9 lz4 steps 0, 1, 16"),
        ({"precision": "float64"}, "float64 none all"),
    ],
)
def test_the_way_of_the_run_is_among_them_once_and_marked(
    changes: dict[str, object], name: str, tmp_path: Path
) -> None:
    plan = planned(tmp_path, replace(SPEC, **changes))  # type: ignore[arg-type]
    table = measured(tmp_path, plan)
    assert [found for found, row in by_name(table).items() if row.is_used] == [name]
    others = {f"{way.precision} {way.codec} {way.save}" for way in choices(16)}
    assert len(table.rows) == len(others | {name})


def test_a_way_is_planned_as_the_integrate_step_plans_it(tmp_path: Path) -> None:
    whole = planned(tmp_path)
    for way in choices(16):
        spec = replace(SPEC, precision=way.precision, codec=way.codec, save=way.save)
        assert way.plan(whole) == planned(tmp_path, spec)
        assert choice_of(way.plan(whole)) == way


def test_what_does_not_fit_into_half_precision_is_told_and_never_advised(tmp_path: Path) -> None:
    table = measured(tmp_path, planned(tmp_path, mean=1e6))
    halves = [row for row in table.rows if row.precision == "float16"]
    assert halves
    assert all(row.error is None and row.w2_change is None for row in halves)
    assert "float16" not in table.advice


@pytest.mark.parametrize("is_gone", [True, False])
def test_without_the_velocity_that_was_planned_with_there_is_no_table_but_a_word(is_gone: bool, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    if is_gone:
        (tmp_path / "velocity" / "spec.json").unlink()
    else:
        publish_model(tmp_path / "velocity", spec={"kind": "oracle"})
    table = measured(tmp_path, plan)
    assert table.rows == ()
    assert ("no finished model" if is_gone else "the store was planned with") in table.left_out


def test_few_rows_are_simulated_and_fewer_of_large_states(tmp_path: Path) -> None:
    from tasks.storage_choices import _whole

    plan = planned(tmp_path)
    assert _whole(plan, count=50).chunk_rows == 50
    assert _whole(plan, count=10**6).chunk_rows == 1024
    assert _whole(replace(plan, dim=(3, 32, 32)), count=10**6).chunk_rows == 32 * 2**20 // (17 * 3072 * 4)


def test_a_single_trajectory_has_no_spread(tmp_path: Path) -> None:
    assert measured(tmp_path, planned(tmp_path), count=1).left_out == (
        "the end states of the trajectories are all the same"
    )
