"""Two steps at once: both run, in the record one comes after the other, and the first error ends both."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows import travel, work
from flows.overlap import Simulation
from flows.progress import current_listener, listening
from flows.runs import Run
from flows.stages import STEPS
from flows.travel import Cluster, take_steps
from flows.work import generator_place, perform
from storage.errors import HaltedError, InputError
from storage.progress import read_news
from tasks.executor import Executor, SerialExecutor
from tasks.specs import ComputeSpec, Demand
from tests.flows.test_progress import Notes
from tests.flows.test_runs import finish, open_moons

Play = Callable[..., Any]

SOON = 20.0  # seconds, of which none are needed


def silent(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Summary:
    count: int = 100_000  # trajectories, as the preset has
    startup_seconds: float = 0.0
    metrics: Any = None
    metrics_detail: Any = None


class Beside(SerialExecutor):
    """Serves the simulation, and knows when it is to end."""

    halted: threading.Event

    def beside(self, workers: int, *, halted: threading.Event, **_: Any) -> "Beside":
        if workers > 2:
            raise InputError(f"no room beside {workers}")
        self.halted = halted
        return self


class Stage:
    """Plays all steps; two of them meet."""

    def __init__(self) -> None:
        self.executor = Beside()
        self.simulate: Play = self.chunks
        self.train: Play = self.steps
        self.simulates, self.trains = threading.Event(), threading.Event()
        self.took: list[str] = []

    def play(self, step: str, run: Run, _: Executor, progress: Any) -> Summary:
        self.took.append(step)
        progress(1, 2, step)
        return Summary(metrics={}, metrics_detail={})

    def chunks(self, run: Run, executor: Executor, progress: Any) -> Summary:
        assert executor is self.executor
        assert growing(run).is_file()
        progress(1, 2, "chunks")
        self.simulates.set()
        assert self.trains.wait(SOON)
        return Summary()

    def steps(self, run: Run, _: Executor, progress: Any) -> Summary:
        assert self.simulates.wait(SOON)
        progress(2, 2, "steps")
        self.trains.set()
        return Summary(startup_seconds=3.0)


def growing(run: Run) -> Path:
    mark = generator_place(run).admissions / "growing.json"
    assert isinstance(mark, Path)
    return mark


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Put steps in place of the real ones that do nothing, without Prefect, on a cluster that is none."""
    found = Stage()

    @contextmanager
    def session(_: ComputeSpec) -> Iterator[Executor]:
        yield found.executor

    def act(step: str) -> Callable[..., Summary]:
        return partial(found.play, step)

    plays = {step: act(step) for step in STEPS}
    plays |= {
        "integrate": lambda *facts: found.simulate(*facts),
        "train_generator": lambda *facts: found.train(*facts),
    }
    monkeypatch.setattr(travel, "ray_session", session)
    monkeypatch.setattr(travel, "take_step", take)
    monkeypatch.setattr(work, "WORK", plays)
    return found


def take(step: str, run: Run, executor: Executor) -> None:
    if not run.serves(step):
        perform(step, run, executor, progress=silent)


def overlapping(root: Path, *changes: str) -> Run:
    return open_moons(root, "generator.overlap=true", *changes)


def go(run: Run) -> None:
    with run.in_progress(), Cluster(ComputeSpec()) as cluster:
        take_steps(run, cluster)


def test_both_steps_run_at_once_and_the_record_has_one_after_the_other(tmp_path: Path, stage: Stage) -> None:
    run, notes = overlapping(tmp_path), Notes()
    with listening(notes):
        go(run)
    assert list(run.record.steps) == list(STEPS)
    assert stage.took == ["ingest", "fit_velocity", "evaluate"]
    assert not growing(run).exists()
    assert not stage.executor.halted.is_set()
    assert run.record.status == "finished"
    assert "train_generator workers" not in run.record.timings  # they started beside the simulation
    assert {("began", "integrate"), ("moved", "integrate", 1, 2, "chunks", None)} <= set(
        notes.told
    )  # heard in its thread
    assert current_listener() is not notes


def test_a_training_that_ends_first_waits_for_the_simulation_and_has_no_seconds_of_its_own(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, published = overlapping(tmp_path), threading.Event()

    def simulate(*_: object) -> Summary:
        stage.simulates.set()
        assert published.wait(SOON)
        assert "train_generator" not in run.record.steps
        time.sleep(0.5)
        return Summary()

    require_done = Simulation.require_done

    def noticing(simulation: Simulation) -> None:
        published.set()
        require_done(simulation)

    monkeypatch.setattr(Simulation, "require_done", noticing)
    stage.simulate = simulate
    go(run)
    assert list(run.record.steps) == list(STEPS)
    seconds = {step: stage.seconds for step, stage in run.record.steps.items()}
    assert seconds["train_generator"] < 0.5 <= seconds["integrate"]  # what both took is the simulation's


def test_of_two_steps_the_training_is_told_of_to_other_processes(tmp_path: Path, stage: Stage) -> None:
    run, told = overlapping(tmp_path), []

    def train(run: Run, executor: Executor, progress: Any) -> Summary:
        assert stage.simulates.wait(SOON)
        told.append(read_news(run.paths.progress))
        return stage.steps(run, executor, progress)

    stage.train = train
    go(run)
    assert told[0] is not None
    assert told[0].step == "train_generator"


def test_a_simulation_that_fails_is_what_is_told(tmp_path: Path, stage: Stage) -> None:
    run = overlapping(tmp_path)

    def simulate(*_: object) -> Summary:
        raise OSError("the disk is full")

    def train(run: Run, *_: object) -> Summary:
        assert run.simulation is not None
        run.simulation.wait()
        assert not growing(run).exists()
        raise HaltedError("nobody simulates")

    stage.simulate, stage.train = simulate, train
    with pytest.raises(OSError, match="the disk is full"):
        go(run)
    assert list(run.record.steps) == ["ingest", "fit_velocity"]
    assert (run.record.status, run.record.error) == ("failed", "OSError: the disk is full")


def test_a_training_that_ended_is_not_recorded_without_its_trajectories(tmp_path: Path, stage: Stage) -> None:
    run = overlapping(tmp_path)

    def simulate(*_: object) -> Summary:
        assert stage.trains.wait(SOON)
        raise OSError("the seal cannot be written")

    def train(*_: object) -> Summary:
        stage.trains.set()
        return Summary()

    stage.simulate, stage.train = simulate, train
    with pytest.raises(OSError, match="the seal cannot be written"):
        go(run)
    assert list(run.record.steps) == ["ingest", "fit_velocity"]


@pytest.mark.parametrize("error", [FloatingPointError("loss is not finite"), KeyboardInterrupt()])
def test_a_training_that_fails_or_is_interrupted_ends_the_simulation(
    error: BaseException, tmp_path: Path, stage: Stage
) -> None:
    run = overlapping(tmp_path)

    def simulate(*_: object) -> Summary:
        stage.simulates.set()
        assert stage.executor.halted.wait(SOON)
        raise HaltedError("the work was asked to end")

    def train(*_: object) -> Summary:
        assert stage.simulates.wait(SOON)
        raise error

    stage.simulate, stage.train = simulate, train
    with pytest.raises(type(error)):
        go(run)
    assert stage.executor.halted.is_set()
    assert list(run.record.steps) == ["ingest", "fit_velocity"]
    assert not [thread for thread in threading.enumerate() if thread.name == "integrate"]


def test_trajectories_that_are_there_are_trained_on_as_ever(tmp_path: Path, stage: Stage) -> None:
    finish(overlapping(tmp_path), "ingest", "fit_velocity", "integrate")
    run = overlapping(tmp_path)
    stage.train = partial(stage.play, "train_generator")
    go(run)
    assert stage.took == ["train_generator", "evaluate"]
    assert run.simulation is None


def test_a_training_that_leaves_no_room_is_refused_before_any_step(tmp_path: Path, stage: Stage) -> None:
    run = overlapping(tmp_path, "generator.workers=[1, 4]")
    with pytest.raises(InputError, match="no room beside 4"):
        go(run)
    assert stage.took == []


class Asking(Beside):
    """Keeps what it is asked to have room for, and by which step."""

    def __init__(self, room: list[tuple[str, str, int, str]], step: str = "") -> None:
        self.room, self.step = room, step

    def given(self, demand: Demand) -> "Asking":
        return Asking(self.room, demand.step)

    def require_room(self, *, device: str, count: int = 1, what: str = "") -> None:
        self.room.append((self.step, device, count, what))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), {("integrate", "cpu", 1, ""), ("train_generator", "cpu", 2, "generator.workers")}),
        (
            ("compute.integrate.gpus=0.5", "compute.train_generator.gpus=1", "generator.workers=[1,2]"),
            {("integrate", "cuda", 1, ""), ("train_generator", "cuda", 1, "generator.workers")},
        ),
        (
            ("velocity.kind=kernel", "compute.integrate.gpus=0.5"),  # of no use to a kernel
            {
                ("fit_velocity", "cpu", 1, ""),
                ("integrate", "cpu", 1, ""),
                ("train_generator", "cpu", 2, "generator.workers"),
            },
        ),
        (("compute.address=127.0.0.1:1", "compute.patience=60"), set()),  # each step waits when it begins
    ],
)
def test_the_cluster_is_asked_for_room_for_every_pending_step_before_the_first(
    changes: tuple[str, ...], expected: set[tuple[str, str, int, str]], tmp_path: Path, stage: Stage
) -> None:
    room: list[tuple[str, str, int, str]] = []
    stage.executor = Asking(room)
    stage.simulate = stage.train = lambda *_: Summary()
    run = open_moons(tmp_path, *changes)
    go(run)
    network = {("fit_velocity", "cpu", 2, "velocity.workers")} if run.config.velocity.kind == "network" else set()
    assert set(room) == (expected | network if expected else set())
    assert len(room) == len(set(room))
