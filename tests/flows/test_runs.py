"""Runs: their names, what they take over by reference, growth, and a status that stays true."""

from pathlib import Path
from typing import Any

import pytest

from flows.config import load_config
from flows.runs import Run, open_run, reopen
from flows.stages import STEPS
from storage.catalog import Catalog
from storage.errors import InputError, RunConflictError


def open_moons(root: Path, *changes: str, name: str = "", until: str = "evaluate") -> Run:
    return open_run(load_config("moons", changes=changes), root=root, name=name, source="moons", until=until)


def summary_of(run: Run, step: str) -> dict[str, Any]:
    if step == "integrate":
        return {"count": run.config.trajectories.count}
    return {"metrics": {"w2": 1.0}, "metrics_detail": {}} if step == "evaluate" else {}


def finish(run: Run, *steps: str) -> Run:
    with run.in_progress():
        for step in steps or STEPS:
            run.finish(step, seconds=1.0, summary=summary_of(run, step))
    return run


def test_a_run_is_found_again_by_its_configuration(tmp_path: Path) -> None:
    first = finish(open_moons(tmp_path))
    again = open_moons(tmp_path)
    assert again.record.name == first.record.name == "moons"
    assert again.pending == ()


def test_another_configuration_gets_six_digits_and_never_the_same_folder(tmp_path: Path) -> None:
    finish(open_moons(tmp_path))
    other = open_moons(tmp_path, "seed=3")
    assert other.record.name.startswith("moons-")
    assert len(other.record.name) == len("moons-") + 6
    assert open_moons(tmp_path, "seed=3").record.name == other.record.name
    assert other.pending == STEPS


def test_an_asked_for_name_of_another_configuration_is_refused_and_the_difference_told(tmp_path: Path) -> None:
    finish(open_moons(tmp_path, name="mine"))
    with pytest.raises(RunConflictError, match=r"run 'mine' has another configuration; it differs in seed \(there 0"):
        open_moons(tmp_path, "seed=3", name="mine")
    assert isinstance(RunConflictError("x"), InputError)


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "x" * 200])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(InputError, match="name must be letters"):
            open_moons(tmp_path, name=name)


def test_a_new_run_takes_over_equal_stages_by_reference(tmp_path: Path) -> None:
    first = finish(open_moons(tmp_path))
    second = open_moons(tmp_path, "generator.learning_rate=1e-4")
    assert second.pending == ("train_generator", "evaluate")
    assert second.holder("integrate").trajectories == first.paths.trajectories
    finish(second, "train_generator", "evaluate")
    third = open_moons(tmp_path, "generator.learning_rate=1e-4", "evaluation.samples=77")
    assert third.pending == ("evaluate",)
    assert third.holder("train_generator").generator == second.paths.generator
    assert third.holder("ingest").data == first.paths.data


def test_a_reference_to_a_run_that_is_gone_is_not_followed(tmp_path: Path) -> None:
    first = finish(open_moons(tmp_path))
    open_moons(tmp_path, "generator.learning_rate=1e-4")
    first.paths.record.unlink()
    assert open_moons(tmp_path, "generator.learning_rate=1e-4").pending == STEPS


def test_growth_stays_in_its_run_and_redoes_what_depends_on_the_count(tmp_path: Path) -> None:
    finish(open_moons(tmp_path, "trajectories.count=100"))
    grown = open_moons(tmp_path, "trajectories.count=200")
    assert grown.record.name == "moons"
    assert grown.pending == ("integrate", "train_generator", "evaluate")
    finish(grown, "integrate", "train_generator", "evaluate")
    lowered = open_moons(tmp_path, "trajectories.count=150")
    assert lowered.pending == ("train_generator", "evaluate")


def test_until_asks_for_no_more_than_that_step(tmp_path: Path) -> None:
    run = open_moons(tmp_path, until="fit_velocity")
    assert run.pending == ("ingest", "fit_velocity")
    finish(run, "ingest", "fit_velocity")
    assert run.record.status == "partial"
    assert open_moons(tmp_path).pending == STEPS[2:]
    with pytest.raises(InputError, match="--until must be one of ingest"):
        open_moons(tmp_path, until="deploy")


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("no luck"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_whatever_ends_a_run_is_recorded(tmp_path: Path, error: BaseException, status: str) -> None:
    run = open_moons(tmp_path)

    def end() -> None:
        with run.in_progress():
            assert Catalog(tmp_path).get("moons").status == "running"
            raise error

    with pytest.raises(type(error)):
        end()
    record = Catalog(tmp_path).get("moons")
    assert record.status == status
    assert ("no luck" in record.error) == (status == "failed")


def test_a_finished_run_carries_its_metrics(tmp_path: Path) -> None:
    finish(open_moons(tmp_path))
    record = Catalog(tmp_path).get("moons")
    assert record.status == "finished"
    assert record.metrics == {"w2": 1.0}
    assert {"python", "torch", "ray", "prefect", "zarr"} <= record.versions.keys()


def test_a_run_can_be_reopened_by_its_name_alone(tmp_path: Path) -> None:
    run = finish(open_moons(tmp_path, "seed=9", name="nine"))
    again = reopen(Catalog(tmp_path), "nine")
    assert again.config == run.config
    assert again.pending == ()
