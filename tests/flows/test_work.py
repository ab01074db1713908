"""What a step asks for, made of a run: a generator is trained on the run's own trajectories and on no others."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import work
from flows.config import load_config
from flows.runs import Run, open_run
from flows.work import perform
from storage.errors import PlanConflictError
from tasks.executor import SerialExecutor
from tasks.train_generator import GeneratorRequest
from tests.end_to_end.command import TINY, integrate_here


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
