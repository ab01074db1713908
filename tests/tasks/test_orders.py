"""End-state errors against closed forms and other stores, and the curves that points make."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.evaluation.distance import Distance
from tasks.executor import SerialExecutor
from tasks.integrate import integrate
from tasks.orders import (
    Curve,
    MeasuredPoint,
    PointRequest,
    curves_of,
    measure_points,
    reference_error,
    theoretical_order,
)
from tasks.specs import TrajectoriesSpec
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import TRAJECTORIES, standard_normal
from tests.tasks.test_integrate import request_of, silent

ROWS, STD, SEED = 100, 2.0, 3


def solved(
    folder: Path,
    *,
    interpolant: str = "linear",
    mean: float = 0.0,
    count: int = ROWS,
    reference: PointRequest | None = None,
    is_exact: bool = True,
    **spec: Any,
) -> PointRequest:
    """Simulate N(mean, 2^2 I) in the plane, and give what is asked of the point."""
    trajectories = TrajectoriesSpec(**({"count": count, "stop": 1.0, "chunk_rows": 32, "sub_batch": 48} | spec))
    request = request_of(folder, spec=trajectories, std=STD, mean=mean, seed=SEED, interpolant=interpolant)
    integrate(request, executor=SerialExecutor(), progress=silent)
    return PointRequest(
        run=folder.name,
        values={"trajectories.steps": trajectories.steps},
        steps=trajectories.steps,
        solver=trajectories.solver,
        count=count,
        intrinsic=None,
        store=request.store,
        velocity=request.velocity,
        reference=reference.store if reference else None,
        is_exact=is_exact,
        metrics={},
        metrics_detail={},
        seconds=1.0,
    )


def error_of(point: PointRequest) -> tuple[float, float]:
    (found,) = measure_points([point], progress=silent)
    assert found.error is not None
    assert found.error.n == point.count
    return found.error.value, found.error.standard_error


def euler_factor(interpolant: str, *, grid: str, steps: int, stop: float) -> float:
    """Give A_K = prod_k (1 + h_k c(t_k)), c = (alpha alpha' + sigma^2 beta beta') / (alpha^2 + sigma^2 beta^2)."""
    t = time_grid(grid, steps=steps, stop=stop)
    c = Interpolant(interpolant).at(t[:-1])
    rate = (c.noise * c.noise_rate + STD**2 * c.data * c.data_rate) / (c.noise**2 + STD**2 * c.data**2)
    return float((1 + t.diff() * rate).prod())


def noise(rows: int) -> np.ndarray[Any, np.dtype[Any]]:
    return standard_normal(SEED, 0, rows, (2,), stream=TRAJECTORIES).numpy()


@pytest.mark.parametrize("interpolant", ["linear", "trigonometric"])
@pytest.mark.parametrize("grid", ["uniform", "karras"])
@pytest.mark.parametrize("steps", [3, 16])
def test_the_error_of_euler_is_the_closed_form(interpolant: str, grid: str, steps: int, tmp_path: Path) -> None:
    """Euler multiplies the noise by A_K and the exact map by sigma, so the error is |A_K - sigma| times the noise's."""
    value, error = error_of(solved(tmp_path, interpolant=interpolant, grid=grid, steps=steps))
    gap = abs(euler_factor(interpolant, grid=grid, steps=steps, stop=1.0) - STD)
    squares = (noise(ROWS) ** 2).mean(1)
    assert value == pytest.approx(gap * math.sqrt(squares.mean()), rel=1e-4)
    assert error == pytest.approx(
        gap * squares.std(ddof=1) / math.sqrt(ROWS) / (2 * math.sqrt(squares.mean())), rel=1e-4
    )


def test_an_early_stop_is_compared_with_the_flow_at_that_time(tmp_path: Path) -> None:
    value, _ = error_of(solved(tmp_path, steps=8, stop=0.5, mean=1.5))
    gap = abs(euler_factor("linear", grid="uniform", steps=8, stop=0.5) - math.sqrt(0.5**2 + (0.5 * STD) ** 2))
    assert value == pytest.approx(gap * math.sqrt((noise(ROWS) ** 2).mean()), rel=1e-4)


def test_a_fine_reference_gives_nearly_the_exact_error_and_rows_meet_their_own(tmp_path: Path) -> None:
    fine = solved(tmp_path / "fine", solver="heun", steps=64, precision="float64", save="endpoints", chunk_rows=48)
    coarse: dict[str, Any] = {"steps": 8, "save": "every-3"}
    exact = error_of(solved(tmp_path / "a", **coarse))
    found = error_of(solved(tmp_path / "b", reference=fine, is_exact=False, **coarse))
    assert found == pytest.approx(exact, rel=2e-3)  # Heun with eight times the steps: 1e-3 of the error


def test_only_the_rows_asked_for_are_measured(tmp_path: Path) -> None:
    point = solved(tmp_path, steps=4)
    first = replace(point, count=40)
    gap = abs(euler_factor("linear", grid="uniform", steps=4, stop=1.0) - STD)
    assert error_of(first)[0] == pytest.approx(gap * math.sqrt((noise(40) ** 2).mean()), rel=1e-4)


def test_without_a_reference_there_is_no_error_but_evaluations_count(tmp_path: Path) -> None:
    for solver, evaluations in (("euler", 4), ("exponential", 4), ("heun", 8)):
        point = solved(tmp_path / solver, solver=solver, steps=4, is_exact=False)
        (found,) = measure_points([point], progress=silent)
        assert (found.error, found.evaluations, found.size) == (None, evaluations, 2)
        assert math.isnan(found.quantity("error")[0])


def point_of(values: Mapping[str, Any], **facts: Any) -> MeasuredPoint:
    """Give a point without a store: ``error`` and metrics as told."""
    error = facts.pop("error", None)
    request = PointRequest(
        run="r",
        values=values,
        steps=int(values.get("trajectories.steps", 4)),
        solver=str(values.get("trajectories.solver", "euler")),
        count=10,
        intrinsic=facts.pop("intrinsic", None),
        store=Path("x"),
        velocity=Path("v"),
        reference=None,
        is_exact=False,
        metrics=facts,
        metrics_detail={name: {"standard_error": 0.5, "n": 9.0} for name in facts},
        seconds=0.0,
    )
    distance = None if error is None else Distance(name="error", value=error, standard_error=0.1 * error, n=10)
    return MeasuredPoint(request=request, size=2, error=distance)


def test_errors_make_a_curve_for_each_solver_with_its_order() -> None:
    orders = {"euler": 1, "heun": 2}
    points = [
        point_of({"trajectories.steps": k, "trajectories.solver": solver}, error=5.0 / k**order)
        for k in (16, 4, 8)
        for solver, order in orders.items()
    ]
    euler, heun = curves_of(points)
    assert (euler.series, heun.series) == ({"trajectories.solver": "euler"}, {"trajectories.solver": "heun"})
    assert (euler.x.tolist(), heun.x.tolist()) == ([4, 8, 16], [8, 16, 32])
    assert euler.error == pytest.approx(0.5 / euler.x)
    for curve, order in ((euler, 1), (heun, 2)):
        assert (curve.quantity, curve.against, curve.theory) == ("error", "evaluations", order)
        assert curve.law.slope == pytest.approx(-order)


def test_metrics_make_curves_against_numeric_keys_and_each_word_is_a_series() -> None:
    points = [
        point_of(
            {"dataset.count": n, "interpolant.kind": kind}, **{"w2": n**-0.2, "budget.fit": 1 / n, "lipschitz": 1 / n}
        )
        for n in (100, 1000, 10_000)
        for kind in ("linear", "vp")
    ]
    found = curves_of(points)
    assert [(c.quantity, c.against, tuple(c.series.values())) for c in found] == [
        (name, "dataset.count", (kind,)) for name in ("w2", "budget.fit") for kind in ("linear", "vp")
    ]
    assert found[0].law.slope == pytest.approx(-0.2)
    assert found[0].theory == pytest.approx(1 / 5)
    assert found[0].error.tolist() == [0.5, 0.5, 0.5]


def test_noisy_metrics_are_fitted_to_all_points_and_errors_where_they_follow() -> None:
    values = {4: 9.0, 8: 2.0, 16: 1.0, 32: 0.5}
    points = [point_of({"trajectories.steps": k}, error=v, w2=v) for k, v in values.items()]
    assert {curve.quantity: curve.law.points for curve in curves_of(points)} == {"error": 3, "w2": 4}


def test_what_has_no_logarithm_makes_no_curve() -> None:
    def found(values: list[Any], w2: list[float]) -> list[Curve]:
        return curves_of([point_of({"seed": value}, w2=y) for value, y in zip(values, w2, strict=True)])

    assert len(found([1, 2], [1.0, 2.0])) == 1
    for values in ([0, 1], [True, False], ["a", "b"], [-1, 2]):
        assert found(values, [1.0, 2.0]) == []
    assert found([1], [1.0]) == found([1, 2], [0.0, 1.0]) == []
    assert found([1, 2], [1.0, 1.0]) == []  # it does not depend on the key


def test_the_error_of_a_reference_is_told_by_the_finest_point_of_its_kind() -> None:
    def compared(error: float, *, finer: int, reference: str) -> MeasuredPoint:
        point = point_of({"seed": 1}, error=error)
        return replace(point, request=replace(point.request, finer=finer, reference=Path(reference)))

    one = [compared(30.0, finer=8, reference="a"), compared(15.0, finer=4, reference="a")]
    other = [compared(6.3, finer=8, reference="b"), compared(99.0, finer=0, reference="b")]
    assert reference_error(one) == reference_error(one[::-1]) == pytest.approx(15 / (4**2 - 1))
    assert reference_error(other) == pytest.approx(6.3 / (8**2 - 1))
    assert reference_error(other + one) == pytest.approx(1.0)
    assert reference_error(other[1:]) is None


@pytest.mark.parametrize(
    ("quantity", "against", "solver", "order"),
    [
        ("error", "evaluations", "exponential", 1),
        ("error", "evaluations", "heun", 2),
        ("budget.euler", "trajectories.steps", "euler", 1),
        ("w2", "trajectories.steps", "euler", None),
        ("w2", "dataset.count", "euler", 1 / 10),
        ("w2_excess", "dataset.count", "euler", 1 / 10),
        ("budget.velocity", "dataset.count", "euler", 1 / 10),
        ("velocity_error", "dataset.count", "euler", 1 / 10),
        ("budget.fit", "trajectories.count", "euler", 1 / 11),
        ("fit_error", "trajectories.count", "euler", 1 / 11),
        ("w2_excess", "trajectories.count", "euler", None),
        ("sliced_w2", "generator.network.width", "euler", None),
    ],
)
def test_theory_speaks_where_it_has_a_rate(quantity: str, against: str, solver: str, order: float | None) -> None:
    assert theoretical_order(quantity, against, solver=solver, dimension=7) == order


def test_on_a_manifold_rates_are_by_its_own_dimension_and_orders_of_solvers_as_ever() -> None:
    points = [
        point_of({key: n, "trajectories.steps": k}, intrinsic=3, error=1 / k, velocity_error=1 / n, fit_error=1 / n)
        for key in ("dataset.count", "trajectories.count")
        for n in (100, 1000)
        for k in (4, 8)
    ]
    for half, quantity, order in ((points[:4], "velocity_error", 1 / 6), (points[4:], "fit_error", 1 / 7)):
        found = {curve.quantity: (curve.theory, curve.intrinsic) for curve in curves_of(half)}
        assert found[quantity] == (order, 3)
        assert found["error"] == (1, None)


@pytest.mark.parametrize(("known", "order"), [({"velocity_error": 0.1}, 1 / 5), ({}, None)])
def test_a_velocity_that_is_compared_with_the_rows_own_has_no_rate(
    known: dict[str, float], order: float | None
) -> None:
    points = [point_of({"dataset.count": n}, **{"budget.velocity": 1 / n}, **known) for n in (100, 1000)]
    (curve,) = curves_of(points)
    assert curve.theory == order


def test_points_at_zero_are_left_out_and_counted() -> None:
    values = {100: 0.4, 200: 0.2, 400: 0.0, 800: 0.1, 1600: math.nan}
    (curve,) = curves_of([point_of({"dataset.count": n}, w2_excess=v) for n, v in values.items()])
    assert (curve.x.tolist(), curve.law.points, curve.left_out) == ([100, 200, 800], 3, 1)


def test_the_helper_of_these_tests_is_the_published_factor() -> None:
    assert euler_factor("linear", grid="uniform", steps=16, stop=1.0) == pytest.approx(1.822732, abs=1e-6)
