"""Runs: their names, what they take over by reference, growth, and a status that stays true."""

import logging
import os
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.config import load_config
from flows.runs import Run, open_run, reopen
from flows.stages import STEPS
from storage.catalog import Catalog, RunRecord, StageRecord, stage_record
from storage.errors import IncompleteError, InputError, RunBusyError, RunConflictError
from tests.local import on_disk


def open_moons(root: Path, *changes: str, name: str = "", until: str = "evaluate", tags: tuple[str, ...] = ()) -> Run:
    config = load_config("moons", changes=changes)
    return open_run(config, root=root, name=name, source="moons", until=until, tags=tags)


def open_archive(root: Path, path: Path, *, name: str = "", changes: tuple[str, ...] = ()) -> Run:
    return open_moons(root, "dataset.kind=npz", f"dataset.path='{path}'", *changes, name=name)


def write_archive(path: Path, value: float) -> Path:
    np.savez(path, x=np.full((3, 2), value))
    return path


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


def test_a_stage_that_its_holder_lets_go_of_meanwhile_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finish(open_moons(tmp_path))
    write = Catalog.finish_stage

    def let_go_before(catalog: Catalog, record: RunRecord, step: str, stage: StageRecord) -> RunRecord:
        """Be the holder's process, which goes on between the other's look and its reference."""
        if step == "train_generator":
            held = catalog.get(first.record.name)
            write(catalog, held, step, replace(held.steps[step], key="0" * 32))
        return write(catalog, record, step, stage)

    monkeypatch.setattr(Catalog, "finish_stage", let_go_before)
    second = open_moons(tmp_path, "evaluation.samples=77")
    assert second.pending == ("train_generator", "evaluate")
    assert Catalog(tmp_path).get(second.record.name) == second.record
    assert list(second.record.steps) == ["ingest", "fit_velocity", "integrate"]


def test_tags_are_kept_and_added_by_the_same_command_and_change_nothing_else(tmp_path: Path) -> None:
    first = finish(open_moons(tmp_path, tags=("paper",)))
    again = open_moons(tmp_path, tags=("b", "paper"))
    assert again.record.tags == ("b", "paper")
    assert (again.record.name, again.record.identity, again.pending) == ("moons", first.record.identity, ())
    assert open_moons(tmp_path).record == again.record
    with pytest.raises(InputError, match="--tag must be"):
        open_moons(tmp_path / "elsewhere", tags=("fine", "not fine"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_goes_on_from_its_record_as_it_is_once_the_lock_is_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Catalog.held

    def finish_before(catalog: Catalog, run: str) -> Any:
        """Be another process that worked on the run until now."""
        monkeypatch.setattr(Catalog, "held", held)
        catalog.finish_stage(catalog.get(run), "ingest", stage_record(key="k", holder=run, seconds=1.0, summary={}))
        return held(catalog, run)

    run = open_moons(tmp_path)
    monkeypatch.setattr(Catalog, "held", finish_before)
    assert "ingest" in open_moons(tmp_path).record.steps
    monkeypatch.setattr(Catalog, "held", finish_before)
    run.settle_alone()
    assert "ingest" in Catalog(tmp_path).get("moons").steps


def test_a_step_records_what_it_read_and_what_it_took(tmp_path: Path) -> None:
    run = open_archive(tmp_path, write_archive(tmp_path / "a.npz", 1), name="mine")
    with run.in_progress():
        data = on_disk(run.paths.data)
        data.mkdir()
        (data / "x").write_bytes(b"12345")
        run.finish("ingest", seconds=1800.0, summary={"digest": "d"}, cores=2)
        run.finish("fit_velocity", seconds=1.0, summary={"digest": "v"})
    ingest, velocity = (Catalog(tmp_path).get("mine").steps[step] for step in ("ingest", "fit_velocity"))
    assert ingest.inputs == {"source": run.record.source_digest}
    assert (ingest.bytes, ingest.cores, ingest.core_hours, ingest.host) == (5, 2, 1.0, os.uname().nodename)
    assert ingest.versions["charflow"] == run.record.versions["charflow"]
    assert velocity.inputs == {"data": "d"}
    assert (velocity.bytes, velocity.cores, velocity.core_hours) == (0, None, None)


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


def test_changed_data_get_a_run_of_their_own_with_one_warning_and_old_data_find_theirs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_archive(tmp_path / "a.npz", 1)
    first = finish(open_archive(tmp_path, path))
    assert first.record.name == "moons"
    write_archive(path, 2)
    with caplog.at_level(logging.WARNING):
        second = open_archive(tmp_path, path)
    assert second.record.name == f"moons-{second.record.identity[:6]}"
    assert second.pending == STEPS
    assert [record.getMessage() for record in caplog.records] == [
        f"dataset.path {str(path)!r} has changed since run moons ingested it; run {second.record.name} takes it as it "
        "is now"
    ]
    caplog.clear()
    finish(second)
    assert open_archive(tmp_path, path).record.name == second.record.name
    write_archive(path, 1)
    again = open_archive(tmp_path, path)
    assert (again.record.name, again.pending) == ("moons", ())
    assert caplog.records == []


def test_no_run_takes_over_stages_of_other_data(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.npz", 1)
    finish(open_archive(tmp_path, path))
    assert open_archive(tmp_path, path, changes=("evaluation.samples=77",)).pending == ("evaluate",)
    write_archive(path, 2)
    assert open_archive(tmp_path, path, changes=("evaluation.samples=78",)).pending == STEPS


def test_an_asked_for_name_of_a_run_over_other_data_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.npz", 1)
    finish(open_archive(tmp_path, path, name="mine"))
    write_archive(path, 2)
    with pytest.raises(RunConflictError, match=r"dataset\.path .*a\.npz' has changed since run 'mine' was made of it"):
        open_archive(tmp_path, path, name="mine")
    with pytest.raises(RunConflictError, match="it differs in seed"):
        open_archive(tmp_path, path, name="mine", changes=("seed=3",))
    write_archive(path, 1)
    assert open_archive(tmp_path, path, name="mine").pending == ()


@pytest.mark.parametrize("name", ["", "mine"])
def test_a_run_that_ingested_nothing_yet_takes_mended_data(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_archive(tmp_path / "a.npz", np.nan)
    failed = open_archive(tmp_path, path, name=name)
    write_archive(path, 2)
    mended = open_archive(tmp_path, path, name=name)
    assert mended.record.name == failed.record.name
    assert mended.record.identity != failed.record.identity
    assert Catalog(tmp_path).get(mended.record.name).source_digest == mended.record.source_digest
    assert caplog.records == []


def test_a_run_that_is_at_work_is_not_taken_from_its_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_archive(tmp_path / "a.npz", 1)
    with open_archive(tmp_path, path).in_progress():
        write_archive(path, 2)
        with pytest.raises(RunConflictError, match="has changed since run 'moons' was made of it"):
            open_archive(tmp_path, path, name="moons")
        assert open_archive(tmp_path, path).record.name.startswith("moons-")
        assert caplog.records == []  # nothing was ingested yet


def test_a_run_that_is_at_work_is_left_to_its_process(tmp_path: Path) -> None:
    run = open_moons(tmp_path)
    late = open_moons(tmp_path)
    with run.in_progress():
        with pytest.raises(RunBusyError, match=f"process {os.getpid()} on {os.uname().nodename}"):
            open_moons(tmp_path)
        with pytest.raises(RunBusyError), late.in_progress():
            pass
        run.finish("ingest", seconds=1.0, summary={})
    with late.in_progress():
        assert "ingest" in late.record.steps  # what was done since it was opened


def test_a_reopened_run_keeps_the_keys_of_the_data_that_it_ingested(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.npz", 1)
    finish(open_archive(tmp_path, path, name="mine"))
    for change in (lambda: write_archive(path, 2), path.unlink):
        change()
        again = reopen(Catalog(tmp_path), "mine")
        assert again.pending == ()
        assert again.holder("ingest").run == "mine"


def test_a_run_without_a_configuration_says_what_writes_it(tmp_path: Path) -> None:
    on_disk(open_moons(tmp_path).paths.config).unlink()
    with pytest.raises(IncompleteError, match=r"config\.toml is missing; charflow run \.\.\. --name moons writes it"):
        reopen(Catalog(tmp_path), "moons")


def test_a_missing_dataset_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path .*a\.npz' is no file"):
        open_archive(tmp_path / "runs", tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@settings(max_examples=12)
@given(contents=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_however_data_change_a_run_is_re_used_just_where_it_ingested_the_same(
    contents: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, times = tmp_path_factory.mktemp("root"), count(1_000_000_000)
    ingested: dict[int, str] = {}
    for content in contents:
        path = write_archive(root / "a.npz", content)
        now = next(times)
        os.utime(path, (now, now))
        run = open_archive(root, path)
        assert (run.pending == ()) == (content in ingested)
        assert ingested.setdefault(content, run.record.name) == run.record.name
        finish(run)
    assert len(set(ingested.values())) == len(ingested)
