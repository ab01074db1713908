"""One cluster for many runs: started by the first that needs it, ended once, and not at all where none does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows import travel
from flows.runs import Run
from flows.travel import Cluster, take_steps
from storage.errors import InputError
from tasks.executor import Executor, SerialExecutor
from tasks.specs import ComputeSpec
from tests.flows.test_runs import finish, open_moons


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a cluster in Ray's place that tells of its start and end."""
    told: list[str] = []

    @contextmanager
    def session(_: ComputeSpec) -> Iterator[Executor]:
        told.append("start")
        yield SerialExecutor()
        told.append("end")

    monkeypatch.setattr(travel, "ray_session", session)
    return told


def run_of(root: Path, *, is_done: bool = False) -> Run:
    run = open_moons(root)
    return finish(run) if is_done else run


def test_one_start_serves_every_run_and_is_timed_as_the_firsts(tmp_path: Path, events: list[str]) -> None:
    first, second = run_of(tmp_path / "a"), run_of(tmp_path / "b")
    with Cluster(ComputeSpec()) as cluster:
        assert cluster.executor(first) is cluster.executor(second)
        assert events == ["start"]
        cluster.close()
        assert events == ["start", "end"]
    assert events == ["start", "end"]
    assert (list(first.timings), list(second.timings)) == (["ray"], [])


def test_runs_with_nothing_left_start_none(tmp_path: Path, events: list[str]) -> None:
    with Cluster(ComputeSpec()) as cluster:
        assert isinstance(cluster.executor(run_of(tmp_path, is_done=True)), SerialExecutor)
    assert events == []


@pytest.mark.parametrize("section", ["generator", "evaluation"])
def test_features_that_cannot_be_imported_are_refused_before_anything_starts(
    section: str, tmp_path: Path, events: list[str]
) -> None:
    run = open_moons(tmp_path, f"{section}.features=no_such_module:net")
    message = f"^{section}.features = 'no_such_module:net' cannot be imported"
    with Cluster(ComputeSpec()) as cluster, pytest.raises(InputError, match=message):
        take_steps(run, cluster)
    assert events == []
    assert run.pending == run.steps


def test_an_address_is_attached_to_whatever_is_left(tmp_path: Path, events: list[str]) -> None:
    with Cluster(ComputeSpec(address="host:1")) as cluster:
        cluster.executor(run_of(tmp_path, is_done=True))
    assert events == ["start", "end"]
