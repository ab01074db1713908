"""Where a run stands, as another process sees it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.progress import ProgressFile
from flows.runs import Run
from flows.standing import as_json, lines, standing
from storage.progress import Coverage, News, read_news, write_news
from tasks.facts import ChunkFacts
from tests.flows.test_runs import finish, open_moons
from tests.local import on_disk
from tests.storage.stores import filled

pytestmark = pytest.mark.usefixtures("own_signals")


def shown(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(("show", "moons", "--root", str(root), *words))
    assert caught.value.code == 0
    return capsys.readouterr().out


def shown_json(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json.loads(shown(root, capsys, "--json"))
    assert isinstance(found, dict)
    return found


def news(**changes: object) -> News:
    known: dict[str, object] = {
        "step": "integrate",
        "done": 12_288,
        "total": 50_000,
        "words": "trajectories, 6 MB, slowest chunk 2: 1.5 s",
        "rate": 4096.0,
        "seconds_left": 9.2,
        "told": time.time() - 3,
        "bytes": 6_000_000,
        "slowest_chunk": 2,
        "slowest_seconds": 1.5,
        "again": (1,),
    }
    return News(**(known | changes))  # type: ignore[arg-type]


def stop(run: Run, error: BaseException, told: News | None) -> None:
    def work() -> None:
        with run.in_progress():
            if told is not None:
                write_news(run.paths.progress, told)
            raise error

    with pytest.raises(type(error)):
        work()


def test_a_run_at_work_is_seen_from_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_moons(tmp_path, "trajectories.count=20")
    with run.in_progress():
        assert shown_json(tmp_path, capsys)["progress"] is None  # nothing was told yet
        kept = ProgressFile(run.paths.progress, "fit_velocity")
        assert "fit_velocity: told 0:00:00 ago\n" in shown(tmp_path, capsys)
        kept(5, 5, "steps, loss 0.5", None)
        assert "fit_velocity: 5 of 5 steps, loss 0.5, told 0:00:00 ago\n" in shown(tmp_path, capsys)
        filled(on_disk(run.paths.folder), rows=20, chunks=[0, 2])
        write_news(run.paths.progress, news())
        text, found = shown(tmp_path, capsys), shown_json(tmp_path, capsys)
    assert (
        "integrate: 12,288 of 50,000 trajectories, 6 MB, slowest chunk 2: 1.5 s, "
        "4,096/s, 0:00:09 left, told 0:00:03 ago\n"
        "trajectories: 2 of 5 chunks are committed\n"
    ) in text
    assert found["status"] == "running"
    assert found["progress"].pop("age_seconds") == pytest.approx(3, abs=1)
    assert found["progress"] == {
        "step": "integrate",
        "done": 12_288,
        "total": 50_000,
        "words": "trajectories, 6 MB, slowest chunk 2: 1.5 s",
        "rate": 4096.0,
        "seconds_left": 9.2,
        "bytes": 6_000_000,
        "slowest_chunk": 2,
        "slowest_seconds": 1.5,
        "again": [1],
        "chunks": {"committed": 2, "chunks": 5},
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no luck")])
def test_a_run_that_was_stopped_tells_where_and_what_is_committed(
    error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_moons(tmp_path, "trajectories.count=20")
    filled(on_disk(run.paths.folder), rows=20, chunks=[0, 2, 4])
    stop(run, error, news(step="train_generator", words="steps", again=(), told=time.time() - 90))
    text = shown(tmp_path, capsys)
    assert "train_generator: 12,288 of 50,000 steps, told 0:01:30 ago\n" in text
    assert "trajectories: 3 of 5 chunks are committed\n" in text


def test_without_news_the_ledger_speaks_and_a_whole_store_is_no_news(tmp_path: Path) -> None:
    run = open_moons(tmp_path, "trajectories.count=20")
    store = filled(on_disk(run.paths.folder), rows=20, chunks=[1])
    stop(run, KeyboardInterrupt(), None)
    found = standing(run.catalog, run.record)
    assert found is not None
    assert (found.news, found.coverage) == (None, Coverage(committed=1, chunks=5))
    assert list(lines(found)) == ["trajectories: 1 of 5 chunks are committed"]
    assert as_json(found) == {"age_seconds": None, "chunks": {"committed": 1, "chunks": 5}}
    for chunk in (0, 2, 3, 4):
        (on_disk(store.ledger.folder) / "commits" / f"{chunk:08d}.json").touch()
    assert standing(run.catalog, run.record) is None


def test_news_go_when_a_run_begins_anew_or_ends_well(tmp_path: Path) -> None:
    run = open_moons(tmp_path)
    stop(run, KeyboardInterrupt(), news())
    assert read_news(run.paths.progress) is not None
    with run.in_progress():
        assert read_news(run.paths.progress) is None
        write_news(run.paths.progress, news())
    assert read_news(run.paths.progress) is None
    write_news(run.paths.progress, news())
    assert standing(run.catalog, finish(run).record) is None
    assert list(lines(None)) == []
    assert as_json(None) is None


def test_clocks_that_disagree_make_no_news_from_the_future(tmp_path: Path) -> None:
    run = open_moons(tmp_path)
    stop(run, KeyboardInterrupt(), news(told=time.time() + 1000))
    found = standing(run.catalog, run.record)
    assert found is not None
    assert found.age_seconds == 0


def test_facts_of_chunks_reach_the_file_through_the_work_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import work
    from tasks.executor import SerialExecutor
    from tasks.ingest import DataSummary

    facts = ChunkFacts(bytes=1, slowest_chunk=0, slowest_seconds=0.1, again=())
    run = open_moons(tmp_path)
    told: list[object] = []

    def step(_: object, __: object, progress: Any) -> DataSummary:
        progress(2, 2, "rows", facts)
        found = read_news(run.paths.progress)
        assert found is not None
        told.append((found.step, found.done, found.words, found.bytes))
        return DataSummary(rows=2, dim=(2,), shards=1, classes=0, digest="d")

    monkeypatch.setattr(work, "WORK", {"ingest": step})
    with run.in_progress():
        work.perform("ingest", run, SerialExecutor(), progress=lambda *args: told.append(args))
    assert told == [(2, 2, "rows", facts), ("ingest", 2, "rows", 1)]
