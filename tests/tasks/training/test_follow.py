"""What a training's journal says is told once, whoever restarts."""

import logging
from pathlib import Path

import pytest

from storage.journal import Journal
from tasks.facts import Facts, TrainingFacts, TrainingPlace
from tasks.training.follow import Follower
from tests.local import on_disk


def test_the_log_has_each_line_of_a_journal_once_and_anew_what_a_restart_trains_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.training.follow._FOLLOW_SECONDS", 1000.0)
    place = TrainingPlace(folder=tmp_path, key="k")

    def train(*steps: int, since: int) -> None:
        with Journal(place.journal, step=since) as journal:
            for step in steps:
                record = {"step": step, "steps": 5, "loss": 1 / step, "steps_per_second": 9.0, "wait_share": 0.5}
                journal.append(record)

    on_disk(place.journal).parent.mkdir(parents=True)
    train(10, since=0)  # by a command before this one
    heard: list[tuple[int, TrainingFacts]] = []

    def hear(done: int, _: int, __: str, facts: Facts | None = None, /) -> None:
        assert isinstance(facts, TrainingFacts)
        heard.append((done, facts))

    follower = Follower(place, 50, hear)
    with caplog.at_level(logging.DEBUG, logger="tasks.training.follow"), follower:
        follower._tell()
        for steps, since in (((20, 30), 10), ((), 20), ((25, 40, 45), 20), ((35, 50, 60), 25)):
            train(*steps, since=since)
            follower._tell()
            follower._tell()
    told = [record.__dict__ for record in caplog.records]
    assert [record["optimiser_step"] for record in told] == [20, 30, 25, 40, 45, 35, 50, 60]
    assert {(r["event"], r["steps_per_second"], r["wait_share"]) for r in told} == {("trained", 9.0, 0.5)}
    assert [record["loss"] for record in told] == [1 / record["optimiser_step"] for record in told]
    assert [(done, facts.steps) for done, facts in heard] == [
        (10, 0),
        *[(done, taken) for done, taken in ((30, 10), (20, 10), (45, 25), (60, 40)) for _ in range(2)],
        (60, 40),
    ]
    assert heard[-1][1] == TrainingFacts(steps=40, loss=1 / 60, wait_share=0.5)
