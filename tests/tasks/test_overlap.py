"""A generator that is trained while its trajectories are simulated: the time that it saves, and what failures leave."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from storage import admissions
from storage.admissions import Growth, begin_growth, end_growth
from storage.checkpoints import Checkpoint
from storage.errors import HaltedError
from storage.models import has_model, read_model
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_velocity import fit_velocity
from tasks.integrate import IntegrateRequest, integrate, open_planned
from tasks.sample import sample
from tasks.specs import GeneratorSpec, TrajectoriesSpec
from tasks.train_generator import GeneratorRequest, train_characteristics
from tasks.training.checkpoint import to_checkpoint
from tasks.training.group import alone
from tasks.training.loop import TrainingState
from tests.local import on_disk
from tests.tasks.test_train_generator import NETWORK, silent, velocity_request

pytestmark = pytest.mark.slow

CHUNKS, COUNT = 16, 640


class Waiting(SerialExecutor):
    """Waits before each item, as for a slow disk, an object store or other nodes, and fails after some."""

    def __init__(self, seconds: float, *, limit: int = CHUNKS) -> None:
        self._seconds, self._limit = seconds, limit

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], **_: object) -> Iterator[Any]:
        for k, item in enumerate(items):
            time.sleep(self._seconds)
            if k == self._limit:
                raise OSError("no space left on device")
            yield function(item)


@dataclass(frozen=True)
class Steps:
    """Requests of the two steps, over the exact velocity of a Gaussian."""

    simulation: IntegrateRequest
    training: GeneratorRequest
    step_seconds: float  # that the training waits in each of its steps

    def simulate(self, seconds: float, *, limit: int = CHUNKS) -> None:
        integrate(self.simulation, executor=Waiting(seconds, limit=limit), progress=silent)

    def train(self) -> None:
        train_characteristics(self.training, replace(alone(), average=lambda _: time.sleep(self.step_seconds)))

    def take_both(self, seconds: float, *, limit: int = CHUNKS) -> None:
        open_planned(self.simulation)
        records = self.training.place.admissions
        begin_growth(records)

        def simulate() -> None:
            try:
                self.simulate(seconds, limit=limit)
            finally:
                end_growth(records)

        with ThreadPoolExecutor(1) as pool:
            simulation = pool.submit(simulate)
            self.train()
            simulation.result()

    def admitted(self, epoch: int) -> int:
        """Give the number of chunks of an epoch; 0 where that is not recorded."""
        found = Growth(folder=self.training.place.admissions, until=0).recorded(epoch, chunks=CHUNKS)
        return 0 if found is None else len(found)


def steps_in(folder: Path, *, steps: int, name: str = "generator", step_seconds: float = 0.0) -> Steps:
    velocity = velocity_request(folder, kind="oracle")
    fit_velocity(velocity, progress=silent)
    simulation = IntegrateRequest(
        trajectories=TrajectoriesSpec(count=COUNT, steps=8, stop=1.0, chunk_rows=COUNT // CHUNKS),
        interpolant=velocity.interpolant,
        seed=0,
        dim=(2,),
        data=velocity.data,
        velocity=velocity.place.folder,
        store=folder / "trajectories.zarr",
    )
    training = GeneratorRequest(
        generator=GeneratorSpec(
            network=NETWORK,
            steps=steps,
            batch_size=256,
            workers=1,
            warmup=10,
            learning_rate=3e-3,
            ema=0.99,
            pairs_per_row=16,
            overlap=True,
        ),
        count=COUNT,
        seed=0,
        data=velocity.data,
        velocity=velocity.place.folder,
        store=simulation.store,
        place=TrainingPlace(folder=folder / name, key="g"),
    )
    return Steps(simulation, training, step_seconds)


def seconds_of(act: Callable[[], None]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def timed(folder: Path) -> tuple[Steps, Steps, float]:
    """Take the steps one after the other and others at once, and give what share of the time that took."""
    apart, at_once = (steps_in(folder / name, steps=150, step_seconds=0.022) for name in ("apart", "at-once"))
    sequence = seconds_of(lambda: apart.simulate(0.11)) + seconds_of(apart.train)
    return apart, at_once, seconds_of(lambda: at_once.take_both(0.11)) / sequence


def test_simulation_that_waits_and_training_take_at_most_four_fifths_of_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is lost, they take max(S, G / 2) + G / 2 instead of S + G: two thirds for S = G / 2.

    The training waits as well, for each step as for an accelerator: the ratio is to be one of this code and not one of
    how busy the cores are. Where others take them all the same, it is measured anew.
    """
    monkeypatch.setattr(admissions, "_LOOK_SECONDS", 0.01)  # chunks come that much faster than real ones
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk is the wait
    steps_in(tmp_path / "first", steps=5).take_both(0.0)  # what is slow the first time
    for attempt in ("a", "b", "c"):
        apart, at_once, ratio = timed(tmp_path / attempt)
        if ratio <= 0.8:
            break
    assert ratio <= 0.8
    assert 0 < at_once.admitted(0) < CHUNKS
    t = torch.arange(8) / 8
    factor = torch.prod(1 + (2 * t - 1) / ((1 - t) ** 2 + t**2) / 8).item()  # of Euler's law, as in the sequence
    for steps in (apart, at_once):
        x = sample(steps.training.place.folder, steps.training.data, count=4000, steps=1, seed=9)
        assert x.mean(0) == pytest.approx([3.0, -1.0], abs=0.15)
        assert x.std(0) == pytest.approx([2.0 * factor, 0.5 * factor], rel=0.05)


def test_a_training_that_was_killed_while_chunks_came_goes_on_with_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are those of a training that was not killed and has nothing but the records of the first."""
    stopped = steps_in(tmp_path, steps=160)

    def dying(state: TrainingState) -> Checkpoint:
        if state.step == 48:
            raise KeyboardInterrupt
        return to_checkpoint(state)

    monkeypatch.setattr("tasks.training.fit.to_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        stopped.take_both(0.01)
    monkeypatch.undo()
    assert 0 < stopped.admitted(0) < CHUNKS
    again = steps_in(tmp_path, steps=160, name="again")
    stopped.train()
    shutil.copytree(on_disk(stopped.training.place.admissions), on_disk(again.training.place.admissions))
    again.train()
    weights = [read_model(steps.training.place.folder).weights for steps in (stopped, again)]
    assert weights[0] == weights[1]


def test_a_simulation_that_fails_ends_the_training_and_both_go_on_later(tmp_path: Path) -> None:
    steps = steps_in(tmp_path, steps=160)
    with pytest.raises(HaltedError, match="is not sealed, and nobody simulates"):
        steps.take_both(0.01, limit=5)
    ledger = TrajectoryStore.open(steps.simulation.store).ledger
    assert ledger.committed() == set(range(5))
    assert not has_model(steps.training.place.folder)
    kept = steps.admitted(0)
    steps.take_both(0.0)
    assert has_model(steps.training.place.folder)
    assert steps.admitted(0) == kept
    assert ledger.committed() == set(range(CHUNKS))


def test_without_overlap_a_growing_store_is_refused(tmp_path: Path) -> None:
    steps = steps_in(tmp_path, steps=2)
    open_planned(steps.simulation)
    plain = replace(steps.training, generator=replace(steps.training.generator, overlap=False))
    with pytest.raises(Exception, match="is not sealed, asked for 640"):
        train_characteristics(plain, alone())
