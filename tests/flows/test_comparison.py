"""Two runs side by side: where they part, in which keys, digests and versions, and what came of each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.comparison import compare
from flows.runs import Run
from tests.flows.test_runs import finish, open_moons


def made(root: Path, *changes: str, digests: str = "", **record: Any) -> Run:
    run = finish(open_moons(root, *changes))
    steps = {
        step: replace(stage, summary={**stage.summary, "digest": f"{step}{digests}"}) if step != "evaluate" else stage
        for step, stage in run.record.steps.items()
    }
    run.record = replace(run.record, steps=steps, **record)
    return run


def test_a_run_beside_itself_differs_in_nothing(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert compare(run, run) == {
        "a": "moons",
        "b": "moons",
        "configuration": {},
        "shared": ["ingest", "fit_velocity", "integrate", "train_generator", "evaluate"],
        "first_difference": None,
        "digests": {},
        "versions": {},
        "metrics": {"w2": {side: {"value": 1.0, "standard_error": None} for side in "ab"}},
    }


def test_they_part_at_the_first_step_whose_key_differs(tmp_path: Path) -> None:
    a = made(tmp_path)
    for change, shared in (
        ("evaluation.samples=77", 4),
        ("generator.steps=3", 3),
        ("trajectories.count=777", 3),
        ("trajectories.steps=3", 2),
        ("velocity.steps=3", 1),
        ("seed=3", 0),
    ):
        found = compare(a, open_moons(tmp_path / change, change))
        key, _, value = change.partition("=")
        steps = ["ingest", "fit_velocity", "integrate", "train_generator", "evaluate"]
        assert found["shared"] == steps[:shared]
        assert found["first_difference"] == steps[shared]
        assert list(found["configuration"]) == [key]
        assert found["configuration"][key]["b"] == int(value)


def test_keys_that_only_one_of_them_has_are_told(tmp_path: Path) -> None:
    found = compare(made(tmp_path), open_moons(tmp_path, "velocity.kind=kernel", "velocity.bandwidth=0.5"))
    assert found["configuration"]["velocity.kind"] == {"a": "network", "b": "kernel"}
    assert found["configuration"]["velocity.bandwidth"] == {"a": None, "b": 0.5}
    assert found["configuration"]["velocity.steps"]["b"] is None


def test_a_list_is_the_same_however_it_was_given(tmp_path: Path) -> None:
    changes = ("dataset.kind=gaussian", "dataset.mean=[1,2]", "dataset.std=2", "dataset.dim=2")
    a, b = open_moons(tmp_path, *changes), open_moons(tmp_path, *changes)
    b.config = b.config.model_copy(update={"dataset": replace(b.config.dataset, mean=(1, 2))})
    assert compare(a, b)["configuration"] == {}


def test_digests_are_told_where_they_differ_or_one_has_none(tmp_path: Path) -> None:
    a = made(tmp_path, digests="-here", source_digest="s")
    b = made(tmp_path, digests="-there")
    del b.record.steps["train_generator"]  # type: ignore[attr-defined]
    assert compare(a, b)["digests"] == {
        "source": {"a": "s", "b": None},
        "data": {"a": "ingest-here", "b": "ingest-there"},
        "velocity": {"a": "fit_velocity-here", "b": "fit_velocity-there"},
        "trajectories": {"a": "integrate-here", "b": "integrate-there"},
        "generator": {"a": "train_generator-here", "b": None},
    }


def with_versions(run: Run, *, evaluated: str, others: str, is_told: bool = True) -> Run:
    steps = {
        step: replace(stage, versions={"torch": evaluated if step == "evaluate" else others} if is_told else {})
        for step, stage in run.record.steps.items()
    }
    run.record = replace(run.record, steps=steps, versions={"torch": evaluated})
    return run


def test_versions_are_those_of_the_steps(tmp_path: Path) -> None:
    a = with_versions(made(tmp_path), evaluated="2", others="2")
    same = with_versions(made(tmp_path), evaluated="3", others="3")
    assert compare(a, same)["versions"] == {"torch": {"a": "2", "b": "3"}}
    later = with_versions(made(tmp_path), evaluated="3", others="2")
    assert compare(a, later)["versions"] == {"evaluate.torch": {"a": "2", "b": "3"}}
    old = with_versions(made(tmp_path), evaluated="1", others="", is_told=False)  # of before: of the run alone
    assert compare(a, old)["versions"] == {"torch": {"a": "2", "b": "1"}}


def test_metrics_stand_side_by_side_with_their_errors(tmp_path: Path) -> None:
    detail = {"w2": {"standard_error": 0.1, "n": 9}}
    a = made(tmp_path, metrics={"w2": 1.0, "w2_floor": 0.5}, metrics_detail=detail)
    b = made(tmp_path, metrics={"w2": 2.0, "sinkhorn": 3.0}, metrics_detail={"w2": {"standard_error": 0.2}})
    assert compare(a, b)["metrics"] == {
        "w2": {"a": {"value": 1.0, "standard_error": 0.1}, "b": {"value": 2.0, "standard_error": 0.2}},
        "w2_floor": {"a": {"value": 0.5, "standard_error": None}, "b": None},
        "sinkhorn": {"a": None, "b": {"value": 3.0, "standard_error": None}},
    }
