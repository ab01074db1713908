"""Where work stands: advice that is whole or absent, and what the ledger says."""

import os
from pathlib import Path

import pytest

from storage.progress import Coverage, News, coverage, forget_news, read_news, write_news
from tests.storage.stores import filled, plan_of, snapshot

NEWS = News(
    step="integrate",
    done=3,
    total=10,
    words="trajectories",
    rate=1.5,
    seconds_left=None,
    told=1.0,
    bytes=9,
    slowest_chunk=2,
    slowest_seconds=0.5,
    again=(2, 4),
)


def test_what_was_told_last_is_read_and_nothing_else_lies_there(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    for done in (1, 2):
        write_news(path, News(step="ingest", done=done, total=2, words="rows", rate=None, seconds_left=None, told=0.0))
    write_news(path, NEWS)
    assert read_news(path) == NEWS
    assert [file.name for file in tmp_path.iterdir()] == ["progress.json"]
    forget_news(path)
    forget_news(path)
    assert read_news(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"step": "x", "again": []}', '{"again": 1}', "7"])
def test_what_makes_no_sense_is_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(content)
    assert read_news(tmp_path / "progress.json") is None


def test_a_disk_that_takes_nothing_stops_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_news(tmp_path / "progress.json", NEWS)
    monkeypatch.setattr(os, "replace", full)
    write_news(tmp_path / "progress.json", News(**(vars(NEWS) | {"done": 4})))
    assert read_news(tmp_path / "progress.json") == NEWS
    write_news(tmp_path / "gone" / "progress.json", NEWS)


def test_committed_chunks_are_counted_of_those_that_are_asked_for(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=20, chunks=[0, 1, 4])
    before = snapshot(tmp_path)
    assert coverage(store.path, rows=20) == Coverage(committed=3, chunks=5)
    assert coverage(store.path, rows=5) == Coverage(committed=2, chunks=2)
    assert coverage(store.path, rows=17) == Coverage(committed=3, chunks=5)
    assert snapshot(tmp_path) == before
    assert coverage(tmp_path / "other.zarr", rows=20) is None
    assert plan_of().chunk_rows == 4
