"""Which runs are listed: each thing that is asked for by itself, all of them together, and what cannot be asked."""

from datetime import UTC, datetime

import pytest

from flows.selection import selection
from storage.catalog import RunRecord
from storage.errors import InputError


def record(**changes: object) -> RunRecord:
    known: dict[str, object] = {
        "name": "r",
        "identity": "i",
        "config": "moons",
        "created": "2026-01-31T12:00:00+00:00",
        "updated": "2026-03-01T00:00:00+00:00",
        "status": "finished",
        "tags": ("a", "paper"),
    }
    return RunRecord(**(known | changes))  # type: ignore[arg-type]


def fits(record: RunRecord, **asked: str | list[str]) -> bool:
    words: dict[str, object] = {"status": "", "preset": "", "since": "", "until": "", "tags": []}
    return selection(**(words | asked)).fits(record)  # type: ignore[arg-type]


def test_nothing_asked_for_fits_all() -> None:
    assert fits(record())
    assert fits(record(tags=(), created="2024-01-02"))  # of before, without a zone


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"status": "finished"}, True),
        ({"status": "failed"}, False),
        ({"preset": "moons"}, True),
        ({"preset": "moon"}, False),
        ({"preset": "some/where/moons.toml"}, True),
        ({"tags": ["paper"]}, True),
        ({"tags": ["paper", "a"]}, True),
        ({"tags": ["paper", "b"]}, False),
        ({"since": "2026-01-31"}, True),
        ({"since": "2026-01-31T12:00"}, True),
        ({"since": "2026-01-31T12:00:01"}, False),
        ({"since": "2026-02-01"}, False),
        ({"until": "2026-01-31"}, True),  # the day counts whole
        ({"until": "20260131"}, True),
        ({"until": "2026-01-30"}, False),
        ({"until": "2026-01-31T12:00:00"}, True),
        ({"until": "2026-01-31T11:59:59"}, False),
        ({"until": "2026-01-31 13:00+01:00"}, True),
        ({"until": "2026-01-31T12:59:59+01:00"}, False),
        ({"since": "2026-01-31", "until": "2026-01-31", "status": "finished", "tags": ["a"], "preset": "moons"}, True),
        ({"since": "2026-01-31", "until": "2026-01-31", "status": "failed", "tags": ["a"], "preset": "moons"}, False),
    ],
)
def test_each_thing_that_is_asked_for_must_fit(asked: dict[str, str | list[str]], expected: bool) -> None:
    assert fits(record(), **asked) is expected


def test_a_run_whose_process_is_gone_is_listed_as_interrupted() -> None:
    import os

    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    left = record(status="running", host=os.uname().nodename, pid=gone)
    assert fits(left, status="interrupted")
    assert not fits(left, status="running")
    assert fits(record(status="running", host=os.uname().nodename, pid=os.getpid()), status="running")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"status": "done"}, "--status must be one of new, running, .*, got 'done'"),
        ({"since": "soon"}, "--since must be a day such as 2026-01-31 .*, got 'soon'"),
        ({"until": "2026-02-30"}, "--until must be a day .*, got '2026-02-30'"),
        ({"until": "0001-01-01T00:00+10:00"}, "--until must be a day"),
        (
            {"since": "2026-02-02", "until": "2026-02-01"},
            "--until must not be before --since 2026-02-02, got 2026-02-01",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(asked: dict[str, str | list[str]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fits(record(), **asked)


def test_times_are_utc() -> None:
    found = selection(status="", preset="", since="2026-01-31T10:00+02:00", until="2026-01-31", tags=())
    assert found.since == datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert found.before == datetime(2026, 2, 1, tzinfo=UTC)
