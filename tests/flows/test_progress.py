"""Listeners: heard inside their context alone; how fast a step goes, and the file that tells another process of it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flows.progress import (
    Listener,
    Listeners,
    Pace,
    ProgressFile,
    Stopwatch,
    about,
    current_listener,
    is_heard,
    listening,
    pace_words,
    rate_words,
    told,
    worked_on,
)
from storage.progress import read_news
from tasks.facts import ChunkFacts, Facts, TrainingFacts


class Notes:
    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def began(self, step: str) -> None:
        self.told.append(("began", step))

    def moved(self, step: str, done: int, total: int, words: str, facts: Facts | None = None) -> None:
        self.told.append(("moved", step, done, total, words, facts))

    def ended(self, step: str, *, seconds: float) -> None:
        self.told.append(("ended", step, seconds))

    def failed(self, step: str, error: BaseException, *, seconds: float) -> None:
        self.told.append(("failed", step, error, seconds))

    @contextmanager
    def member(self, name: str) -> Iterator[Listener]:
        self.told.append(("member", name))
        yield self


def test_a_listener_hears_what_happens_inside_its_context() -> None:
    notes = Notes()
    with listening(notes):
        current_listener().began("ingest")
    current_listener().began("integrate")
    assert notes.told == [("began", "ingest")]


def test_each_of_several_listeners_hears_everything_and_of_none_nobody_does() -> None:
    both, facts = (Notes(), Notes()), TrainingFacts(steps=1, loss=0.5, wait_share=0.0)
    error = OSError("no disk")
    with listening(Listeners(*both)), suppress(OSError), told("integrate") as tell:
        tell(1, 2, "trajectories", facts)
        tell.seconds = 7.0
        with current_listener().member("s-steps-4") as listener, listening(listener):
            current_listener().began("ingest")
            current_listener().ended("ingest", seconds=1.0)
        raise error
    for notes in both:
        assert notes.told == [
            ("began", "integrate"),
            ("moved", "integrate", 1, 2, "trajectories", facts),
            ("member", "s-steps-4"),
            ("began", "ingest"),
            ("ended", "ingest", 1.0),
            ("failed", "integrate", error, 7.0),
        ]
    assert not is_heard()


def test_what_is_worked_on_is_known_inside_and_what_is_empty_stays() -> None:
    notes, before = Notes(), worked_on()  # commands that other tests ran in this process have named their run
    with listening(notes), about(run="moons", step="ingest"), told("integrate"):
        assert worked_on() == ("moons", "integrate")
        assert is_heard()
    assert worked_on() == before
    assert [what[0] for what in notes.told] == ["began", "ended"]


def test_the_pace_counts_from_the_first_that_was_told() -> None:
    watch = Stopwatch()
    assert watch.moved(500, 1000, now=7.0) == Pace(rate=None, seconds_left=None)
    assert watch.moved(520, 1000, now=7.9) == Pace(rate=None, seconds_left=None)  # too early to say
    assert watch.moved(600, 1000, now=12.0) == Pace(rate=20.0, seconds_left=20.0)
    assert watch.moved(1000, 1000, now=17.0) == Pace(rate=50.0, seconds_left=0.0)
    assert Stopwatch().moved(1, 2, now=0.0).rate is None


def test_a_count_that_begins_anew_has_a_pace_of_its_own() -> None:
    watch = Stopwatch()
    for done, now in ((900, 0.0), (1000, 5.0)):
        watch.moved(done, 1000, now=now)
    assert watch.moved(1, 10, now=6.0) == Pace(rate=None, seconds_left=None)
    assert watch.moved(3, 10, now=8.0) == Pace(rate=1.0, seconds_left=7.0)


def test_nothing_done_has_no_pace() -> None:
    watch = Stopwatch()
    for now in (0.0, 10.0):
        assert watch.moved(5, 10, now=now) == Pace(rate=None, seconds_left=None)


@pytest.mark.parametrize(
    ("rate", "seconds_left", "words"),
    [
        (1234.4, 125.2, "1,234/s, 0:02:05 left"),
        (0.25, 4.0, "0.2/s, 0:00:04 left"),
        (10.0, 90_000.0, "10/s, 1 day, 1:00:00 left"),
        (None, None, ""),
    ],
)
def test_a_pace_in_words(rate: float | None, seconds_left: float | None, words: str) -> None:
    pace = Pace(rate=rate, seconds_left=seconds_left)
    assert pace_words(pace) == words
    assert rate_words(pace) == words.split(", ")[0] if words else rate_words(pace) == ""


def test_a_step_is_told_of_when_it_begins_once_a_second_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("flows.progress.time.monotonic", lambda: now)
    monkeypatch.setattr("flows.progress.time.time", lambda: 5.0)
    path = tmp_path / "progress.json"
    kept = ProgressFile(path, "integrate")
    found = read_news(path)
    assert found is not None
    assert (found.step, found.done, found.total, found.told) == ("integrate", 0, 0, 5.0)
    heard = []
    for k in range(41):  # a tenth of a second apart, 10 of them each
        now = 100.0 + k / 10
        kept(10 * k, 1000, "trajectories", ChunkFacts(bytes=k, slowest_chunk=1, slowest_seconds=2.0, again=(3,)))
        found = read_news(path)
        assert found is not None
        heard.append(found.done)
    assert sorted(set(heard)) == [0, 100, 200, 300, 400]
    assert found.rate == pytest.approx(100.0)
    assert found.seconds_left == pytest.approx(6.0)
    assert (found.bytes, found.slowest_chunk, found.slowest_seconds, found.again) == (40, 1, 2.0, (3,))
    kept(1000, 1000, "steps")
    found = read_news(path)
    assert found is not None
    assert (found.done, found.words, found.bytes) == (1000, "steps", None)
