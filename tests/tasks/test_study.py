"""The end of a study on stores of a few rows: the object, the page, the pictures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.study import StudyRequest, measure_study
from tests.tasks.test_integrate import silent
from tests.tasks.test_orders import error_of, solved

pytestmark = pytest.mark.slow  # pictures


def request_of(folder: Path) -> StudyRequest:
    points = []
    for steps in (4, 8, 16):
        for solver in ("euler", "heun"):
            point = solved(folder / f"{solver}-{steps}", steps=steps, solver=solver)
            values = {"trajectories.steps": steps, "trajectories.solver": solver}
            points.append(replace(point, values=values, metrics={"w2": 2.0 / steps, "lipschitz": 1.0}))
    return StudyRequest(
        study="s<1>",
        title="gaussian",
        created="today",
        points=points,
        shorts={"trajectories.steps": "steps", "trajectories.solver": "solver"},
        reference="the exact flow map",
        configuration="seed = 0",
        versions={"torch": "2"},
        seeds={"seed": 0},
        report=folder / "report",
    )


def test_a_study_becomes_one_object_and_one_page(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    found = measure_study(request, progress=silent)
    assert list(found) == ["study", "points", "orders", "reference", "reference_error"]
    for point, asked in zip(found["points"], request.points, strict=True):
        assert (point["error"], point["error_se"]) == error_of(asked)
        assert point["values"] == asked.values
        assert point["evaluations"] == asked.steps * (2 if asked.solver == "heun" else 1)
        assert point["metrics"] == asked.metrics
    euler, heun, *metrics = found["orders"]
    assert list(euler) == ["quantity", "against", "series", "observed", "se", "last", "theory", "fitted"]
    assert (euler["series"], euler["theory"]) == ({"trajectories.solver": "euler"}, 1)
    assert (heun["series"], heun["theory"]) == ({"trajectories.solver": "heun"}, 2)
    assert [euler["observed"], euler["last"]] == pytest.approx([1, 1], abs=0.1)
    assert [heun["observed"], heun["last"]] == pytest.approx([2, 2], abs=0.3)
    assert [(order["quantity"], order["observed"]) for order in metrics] == [("w2", pytest.approx(1))] * 2
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == found
    page = (tmp_path / "report" / "index.html").read_text()
    assert found["reference_error"] is None
    for text in ("charflow study", "s&lt;1&gt;", "Orders", "Points", "the exact flow map", "first point of this study"):
        assert text in page
    assert page.count("data:image/png;base64,") == 4
    assert {path.name for path in (tmp_path / "report").glob("*.png")} == {
        "error-evaluations.png",
        "w2-trajectories-steps.png",
    }


def test_the_error_of_a_reference_is_told(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    fine = solved(tmp_path / "fine", steps=64, solver="heun", precision="float64", save="endpoints")
    points = [
        replace(point, is_exact=False, reference=fine.store, finer=64 // point.steps if point.solver == "heun" else 0)
        for point in request.points
    ]
    found = measure_study(replace(request, points=points, reference="run fine"), progress=silent)
    assert found["reference_error"] == pytest.approx(error_of(fine)[0], rel=0.2)  # Heun's order is not yet 2
    page = (tmp_path / "report" / "index.html").read_text()
    assert "run fine, whose own error is about" in page


def test_the_page_says_which_rates_are_by_a_manifolds_dimension(tmp_path: Path) -> None:
    first = request_of(tmp_path).points[0]
    points = [
        replace(first, values={"dataset.count": n}, intrinsic=1, metrics={"w2_excess": excess, "budget.euler": 0.5})
        for n, excess in ((100, 0.4), (200, 0.2), (400, 0.0))
    ]
    (order,) = measure_study(replace(request_of(tmp_path), points=points), progress=silent)["orders"]
    assert (order["quantity"], order["theory"], order["fitted"]) == ("w2_excess", 0.25, 2)
    page = (tmp_path / "report" / "index.html").read_text()
    for text in ("0.25, d = 1", "2 of 3", "not verified", "budget.euler"):
        assert text in page


def test_points_with_nothing_to_compare_make_a_page_without_orders(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    point = replace(request.points[0], is_exact=False, metrics={})
    found = measure_study(replace(request, points=[point], reference=""), progress=silent)
    assert (found["orders"], found["reference"]) == ([], None)
    assert (found["points"][0]["error"], found["points"][0]["error_se"]) == (None, None)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Orders" not in page
    assert "end states" not in page
