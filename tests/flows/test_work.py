"""What a step is asked for: the run's own trajectories and no others, nothing that could not be measured in the end."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import work
from flows.config import load_config
from flows.runs import Run, open_run
from flows.work import _simulated, cores_of, perform
from storage.catalog import stage_record
from storage.errors import InputError, PlanConflictError
from tasks.evaluate import EvaluateRequest
from tasks.executor import SerialExecutor
from tasks.train_generator import GeneratorRequest
from tests.end_to_end.command import TINY, integrate_here
from tests.flows.test_runs import open_archive, open_moons, write_archive
from tests.local import files_of, on_disk


def silent(*_: object) -> None:
    pass


def opened(root: Path, *changes: str) -> Run:
    integrate_here(root, changes=(*TINY, *changes))
    return open_run(
        load_config("gaussian", changes=(*TINY, *changes)), root=root, name="", source="gaussian", until="evaluate"
    )


def test_trajectories_of_another_plan_are_refused_and_the_runs_own_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GeneratorRequest] = []

    def train(request: GeneratorRequest, **_: Any) -> None:
        asked.append(request)
        raise NotImplementedError

    monkeypatch.setattr(work, "train_generator", train)
    mine, other = opened(tmp_path), opened(tmp_path, "trajectories.steps=4")
    with pytest.raises(NotImplementedError):
        perform("train_generator", mine, SerialExecutor(), progress=silent)
    assert [request.store for request in asked] == [mine.paths.trajectories]
    for name in ("trajectories.zarr", "trajectories.ledger"):
        shutil.rmtree(tmp_path / mine.record.name / name)
        shutil.copytree(tmp_path / other.record.name / name, tmp_path / mine.record.name / name)
    words = r"gaussian/trajectories\.zarr holds trajectories with times = \(0\.0, .*, and the run has \(0\.0, .*restore"
    with pytest.raises(PlanConflictError, match=words):
        perform("train_generator", mine, SerialExecutor(), progress=silent)
    assert len(asked) == 1


def ingested(root: Path) -> Run:
    """Bring three rows of data as far as their ingest."""
    changes = ("velocity.kind=kernel", "velocity.bandwidth=0.1")
    run = open_archive(root, write_archive(root / "x.npz", 1.0), changes=changes)
    perform("ingest", run, SerialExecutor(), progress=silent)
    return run


def test_data_that_could_not_be_measured_are_refused_before_any_training(tmp_path: Path) -> None:
    run = ingested(tmp_path)
    for step in ("fit_velocity", "train_generator"):
        with pytest.raises(InputError, match=r"dataset must have at least 4 rows for an evaluation, .* got 3"):
            perform(step, run, SerialExecutor(), progress=silent)


def test_a_run_that_is_not_to_be_measured_takes_any_data(tmp_path: Path) -> None:
    run = ingested(tmp_path)
    run.until = "train_generator"
    perform("fit_velocity", run, SerialExecutor(), progress=silent)
    assert run.serves("fit_velocity")


@pytest.mark.parametrize(("simulated", "expected"), [(4, 1000), (1, 250), (0, 0)])
def test_trajectories_that_were_there_before_are_not_counted(simulated: int, expected: int) -> None:
    summary = {"count": 1000, "chunks": 4, "simulated": simulated}
    stage = stage_record(key="k", holder="r", seconds=1.0, summary=summary)
    assert _simulated({"integrate": stage}) == expected
    assert _simulated({}) == 0


@pytest.mark.parametrize(
    ("step", "changes", "cores"),
    [
        ("ingest", (), 3),
        ("fit_velocity", ("velocity.kind=network", "velocity.workers=4"), 4),
        ("fit_velocity", ("velocity.kind=network", "velocity.workers=[2,4]"), None),
        ("fit_velocity", ("velocity.kind=kernel", "velocity.bandwidth=loo"), 64),
        ("fit_velocity", ("velocity.kind=kernel", "velocity.bandwidth=0.1"), 3),
        ("integrate", (), 64),
        ("train_generator", ("generator.workers=8",), 8),
        ("train_generator", ("generator.workers=8", "compute.train_generator.cpus=2.5"), 20),
        ("train_generator", ("generator.workers=[8,16]",), None),
        ("evaluate", (), 3),
    ],
)
def test_a_step_costs_the_cores_that_it_has(
    step: str, changes: tuple[str, ...], cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cluster(SerialExecutor):
        @property
        def cpus(self) -> int:
            return 64

    monkeypatch.setattr(work, "own_cpus", lambda: 3)
    assert cores_of(step, open_moons(tmp_path, *changes), Cluster()) == cores


@pytest.mark.parametrize(
    ("changes", "device"),
    [
        (("compute.device=cuda", "compute.address=auto"), "auto"),
        (("compute.device=cuda",), "cuda"),
        (("compute.device=cpu", "compute.address=auto"), "cpu"),
    ],
)
def test_the_driver_of_a_cluster_need_not_have_the_gpu_that_nodes_must_have(
    changes: tuple[str, ...], device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EvaluateRequest] = []
    monkeypatch.setattr("tasks.evaluate.evaluate", lambda request, **_: asked.append(request))
    monkeypatch.setattr(Run, "holder", lambda run, _: run.paths)
    monkeypatch.setattr(work, "_facts", lambda _: None)
    work.WORK["evaluate"](open_moons(tmp_path, *changes), SerialExecutor(), silent)
    assert [request.device for request in asked] == [device]


def test_a_step_that_was_performed_tells_its_cost_and_its_bytes(tmp_path: Path) -> None:
    run = ingested(tmp_path)
    stage = run.record.steps["ingest"]
    assert stage.cores == SerialExecutor().cpus
    assert stage.bytes == sum(len(content) for content in files_of(on_disk(run.paths.data)).values())
    assert stage.bytes
