"""Training on Ray Train: workers together do what one would alone, survive the loss of one, and tell their errors."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from storage.errors import InputError
from storage.models import read_model
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, fit_velocity, train_velocity
from tasks.ingest import ingest
from tasks.specs import DatasetSpec, GeneratorSpec, InterpolantSpec, NetworkSpec, VelocitySpec
from tasks.train_generator import GeneratorRequest, train_characteristics
from tasks.training.ddp import UNUSED_CALLBACKS, _telling, run_distributed, seats
from tasks.training.failure import GradientError, LossError
from tasks.training.fit import is_published
from tasks.training.group import Group
from tasks.training.meeting import INTERFACE, interface_of
from tasks.training.starts import Restarts, enter, failure_policy
from tests.local import on_disk
from tests.tasks.test_train_generator import generator_request

Average = Callable[[torch.Tensor], None]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def request_of(folder: Path, *, workers: int) -> VelocityRequest:
    dataset = DatasetSpec(kind="moons", count=400, shards=4)
    ingest(dataset, seed=0, path=folder / "data.zarr")
    return VelocityRequest(
        velocity=VelocitySpec(
            network=NetworkSpec(width=16, depth=2), steps=30, batch_size=64, workers=workers, warmup=5, ema=0.9
        ),
        interpolant=InterpolantSpec(),
        dataset=dataset,
        stop=0.9,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="k"),
    )


def silent(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Both:
    """The two trainings, one after the other."""

    velocity: VelocityRequest
    generator: GeneratorRequest

    def train(self, group: Group, *, average: Callable[[TrainingPlace], Average]) -> None:
        """Train what is not published yet, gradients averaged as the place of the training asks for."""
        if not is_published(self.velocity.place):
            train_velocity(self.velocity, replace(group, average=average(self.velocity.place)))
        if not is_published(self.generator.place):
            train_characteristics(self.generator, replace(group, average=average(self.generator.place)))

    def weights(self) -> list[bytes]:
        return [read_model(request.place.folder).weights for request in (self.velocity, self.generator)]


def both_in(folder: Path) -> Both:
    """Ask for both; the generator's epoch has 37 batches, so that its 30 steps lie in the middle of one."""
    velocity = request_of(folder, workers=2)
    (folder / "stored").mkdir()
    asked = generator_request(folder / "stored")
    spec = velocity.velocity
    generator = GeneratorSpec(
        network=spec.network, steps=spec.steps, batch_size=spec.batch_size, workers=2, warmup=5, ema=0.9
    )
    return Both(velocity, replace(asked, generator=generator))


def die_once(both: Both, group: Group) -> None:
    """Train, but lose rank 1 in the middle of the first attempt of each, as an evicted node would be lost."""

    def average(place: TrainingPlace) -> Average:
        marker = on_disk(place.folder) / "died"

        def mortal(gradient: torch.Tensor) -> None:
            if group.rank == 1 and not marker.exists() and (place.checkpoints / "step-00000015.json").is_file():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            group.average(gradient)

        return mortal

    both.train(group, average=average)


def complain(request: VelocityRequest, group: Group) -> None:
    tries = on_disk(request.place.folder) / "tries"
    tries.parent.mkdir(exist_ok=True)
    with tries.open("a") as file:
        file.write(".")
    assert os.environ[INTERFACE] == interface_of("127.0.0.1")  # where Ray is
    if group.rank == 0:
        raise GradientError("that of rank 1, perhaps")
    time.sleep(0.4)  # the first worker's error would be seen by then
    sys.stderr.write("a word before\n")
    raise LossError(f"rank {group.rank} of {group.world} cannot go on")


def die(request: VelocityRequest, group: Group) -> None:
    sys.stderr.write("out of luck\n")
    os._exit(7)


def controllers_with_torch() -> list[int]:
    """Give the controllers of this worker's node that have loaded torch."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            is_here = int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getppid()
            if is_here and "TrainController" in (process / "cmdline").read_text():
                assert "ray" in (process / "maps").read_text()  # which it may read
                found += [int(process.name)] if "libtorch" in (process / "maps").read_text() else []
    return found


class Fatal:
    """A beginning that kills the first worker that unpickles it, before its function is started."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__ = state
        if not self.mark.exists():
            self.mark.touch()
            os._exit(7)

    def __call__(self, work: object) -> None:
        enter(work)


def check_mean(both: Both, group: Group) -> None:
    assert controllers_with_torch() == []  # it would keep the workers waiting for over a second
    gradient = torch.tensor([0.0, 10.0, 10.0]) + group.rank
    group.average(gradient)
    assert torch.equal(gradient, torch.tensor([0.5, 10.5, 10.5]))
    both.train(group, average=lambda _: group.average)


def test_trainings_that_lost_a_worker_end_with_the_same_weights_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One as it begins, whose fellow must leave: the cluster has room for two. And one in the middle of each."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    undisturbed, disturbed = (both_in(tmp_path / name) for name in ("a", "b"))
    heard: list[int] = []
    outcome = run_distributed(
        check_mean,
        undisturbed,
        workers=2,
        place=undisturbed.generator.place,
        steps=30,
        progress=lambda done, *_: heard.append(done),
    )
    assert heard[-1] == 30
    assert outcome.startup_seconds > 0
    assert outcome.restarts == 0
    assert fit_velocity(undisturbed.velocity, progress=silent).batch_size == 64  # found published, nothing is started
    monkeypatch.setattr("tasks.training.ddp.enter", Fatal(tmp_path / "died"))
    with caplog.at_level("WARNING", "tasks.training.ddp"):
        outcome = run_distributed(
            die_once, disturbed, workers=2, place=disturbed.generator.place, steps=30, progress=silent
        )
    assert outcome.restarts == 3  # and is told of each
    assert [r.getMessage().startswith("training starts again") for r in caplog.records] == [True, True, True]
    assert "(one was lost as it began)" in caplog.records[0].getMessage()
    for request in (disturbed.velocity, disturbed.generator):
        assert (request.place.folder / "died").is_file()
    assert undisturbed.weights() == disturbed.weights()


def test_workers_that_are_always_lost_as_they_begin_are_not_replaced_without_end() -> None:
    from ray.exceptions import ActorUnavailableError
    from ray.train import FailureConfig
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
    from ray.train.v2._internal.execution.failure_handling import FailureDecision
    from ray.train.v2.api.exceptions import ControllerError

    told: list[str] = []
    restarts = Restarts(TrainingPlace(folder=Path(), key="k"))
    restarts.tell = told.append  # type: ignore[method-assign, assignment]
    policy = failure_policy(FailureConfig(max_failures=2), restarts)
    lost = [ActorUnavailableError("gone", None), WorkerGroupStartupFailedError("gone"), ActorUnavailableError("", None)]
    no_room = ControllerError(WorkerGroupStartupTimeoutError(2))
    decisions = [policy.make_decision(error) for error in (no_room, *map(ControllerError, lost), no_room)]
    again, over = FailureDecision.RETRY, FailureDecision.RAISE
    assert decisions == [again, again, again, over, again]
    assert told == ["one was lost as it began"] * 2
    assert policy.make_decision(ControllerError(ValueError("of Ray's"))) is over


def test_a_workers_error_arrives_as_it_was_raised_and_at_once_where_it_would_come_again(tmp_path: Path) -> None:
    """Of two workers' the one that says more, though it comes later."""
    request = request_of(tmp_path, workers=2)
    with pytest.raises(LossError, match="rank 1 of 2 cannot go on") as caught:
        run_distributed(complain, request, workers=2, place=request.place, steps=30, progress=silent)
    assert any("last lines of worker " in note and "    a word before" in note for note in caught.value.__notes__)
    assert (on_disk(request.place.folder) / "tries").read_text() == ".."


def test_the_error_of_a_worker_that_died_takes_along_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.training.ddp.RESTARTS", 0)
    request = request_of(tmp_path, workers=1)
    with pytest.raises(Exception, match="died") as caught:
        run_distributed(die, request, workers=1, place=request.place, steps=30, progress=silent)
    assert any("last lines of worker " in note and "    out of luck" in note for note in caught.value.__notes__)


def test_of_several_workers_errors_the_one_that_knows_most_is_told() -> None:
    lost, other, gradient = RuntimeError("connection closed"), InputError("no room"), GradientError("of mine no row")
    loss = LossError("of my rows 3")
    assert _telling([lost, gradient, loss, other]) is loss
    assert _telling([lost, gradient]) is gradient
    assert _telling([lost, other]) is other
    assert _telling([lost, RuntimeError("another")]) is lost


def test_workers_that_would_cut_a_batch_unevenly_sit_out() -> None:
    assert [seats(workers, parts=48) for workers in (1, 2, 3, 4, 5, 6, 7, 9)] == [1, 2, 3, 4, 4, 6, 6, 8]
    assert [seats(workers, parts=7) for workers in (1, 2, 6, 7, 8)] == [1, 1, 1, 7, 7]
    assert seats(5, parts=0) == 5


def test_the_trainer_still_has_the_callbacks_that_are_left_out() -> None:
    import ray.train.v2.api.data_parallel_trainer as module

    assert all(hasattr(module, name) for name in UNUSED_CALLBACKS)
    assert hasattr(module.DataParallelTrainer, "_create_default_callbacks")
    assert hasattr(module.DataParallelTrainer, "_initialize_and_run_controller")
