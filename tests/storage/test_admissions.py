"""Growing stores: one record an epoch whoever asks, the same pairs again from every place, an end to all waiting."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import admissions as admissions_module
from storage import stream as stream_module
from storage.admissions import Admissions, Growth, begin_growth, end_growth
from storage.errors import DamagedError, HaltedError, StreamConflictError
from storage.paths import Location
from storage.remote import RemotePath
from storage.stream import PairBatch, PairStream, Place, StreamSpec
from storage.trajectories import TrajectoryStore
from tests.storage.stores import filled, write
from tests.storage.test_stream import as_bytes, joined

ROWS, VISITS, CHUNKS = 22, 2, 6
SPEC = StreamSpec(rows=ROWS, batch_size=12, seed=3, visits=VISITS, full_span_share=0.25)
FAR = 10**6  # a position that no test reaches


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admissions_module, "_LOOK_SECONDS", 0.005)
    monkeypatch.setattr(stream_module, "WINDOW_CHUNKS", 2)


def growth_in(folder: Location, *, until: int = FAR) -> Growth:
    return Growth(folder=folder / "admissions", until=until)


def asked(store: TrajectoryStore, growth: Growth) -> Admissions:
    return Admissions(store, growth, rows=ROWS, visits=VISITS)


def records(growth: Growth) -> list[str]:
    return sorted(path.name for path in growth.folder.glob("epoch-*.json"))


def growing(folder: Path, *chunks: int) -> TrajectoryStore:
    """Give a store of which some chunks are committed, and say that more will come."""
    begin_growth(growth_in(folder).folder)
    return filled(folder, rows=ROWS, chunks=chunks)


def complete(store: TrajectoryStore) -> None:
    for chunk in store.ledger.missing(CHUNKS):
        write(store, chunk)
    store.seal(rows=ROWS)


def test_what_is_committed_when_an_epoch_begins_is_kept_for_whoever_asks_later(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, 0, 1, 4), growth_in(tmp_path)
    first = asked(store, growth)
    assert first(0).tolist() == [0, 1, 4]
    write(store, 2)
    assert first(0).tolist() == [0, 1, 4]
    assert first(1).tolist() == [0, 1, 2, 4]
    assert json.loads((tmp_path / "admissions" / "epoch-000001.json").read_text())["chunks"] == [[0, 3], [4, 5]]
    complete(store)
    later = asked(store, growth)
    assert [later(epoch).tolist() for epoch in range(3)] == [[0, 1, 4], [0, 1, 2, 4], list(range(CHUNKS))]


def test_once_all_chunks_are_in_an_epoch_nothing_more_is_recorded_or_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, growth = growing(tmp_path, 0), growth_in(tmp_path)
    found = asked(store, growth)
    found(0)
    complete(store)
    assert found(1).tolist() == list(range(CHUNKS))
    end_growth(growth.folder)
    monkeypatch.setattr(store.ledger, "committed", None)
    for admissions in (found, asked(store, growth)):
        assert [len(admissions(epoch)) for epoch in (0, 1, 2, 900)] == [1, CHUNKS, CHUNKS, CHUNKS]
    assert records(growth) == ["epoch-000000.json", "epoch-000001.json"]


def test_of_racing_workers_one_has_its_way(tmp_path: Path) -> None:
    growth, start = growth_in(tmp_path), threading.Barrier(8)

    def race(view: int) -> list[int]:
        start.wait()
        growth.record(0, np.arange(view + 1))
        found = growth.recorded(0, chunks=8)
        assert found is not None
        return list(found.tolist())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(race, range(8)))
    assert all(chunks == found[0] for chunks in found)
    assert found[0] in [list(range(view + 1)) for view in range(8)]


def agree(store: TrajectoryStore, growth: Growth) -> list[list[int]]:
    """Let three workers ask for epochs while chunks come, and give what all of them were told."""
    start = threading.Barrier(4)

    def ask(_: int) -> list[list[int]]:
        admissions = asked(store, growth)
        found: list[list[int]] = []
        start.wait()
        while not found or len(found[-1]) < CHUNKS:
            found.append(admissions(len(found)).tolist())
        return found

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(ask, k) for k in range(3)]
        start.wait()
        complete(store)
        found = [worker.result(30) for worker in workers]
    assert found[0] == found[1] == found[2]
    return found[0]


def test_workers_agree_while_chunks_come(tmp_path: Path) -> None:
    found = agree(growing(tmp_path), growth_in(tmp_path))
    assert all(set(before) <= set(after) for before, after in pairwise(found))


def test_workers_agree_on_an_object_store(tmp_path: Path, memory: RemotePath) -> None:
    growth = growth_in(memory)
    begin_growth(growth.folder)
    found = agree(filled(tmp_path, rows=ROWS, chunks=[]), growth)
    assert len(records(growth)) == len(found)


def test_an_epoch_waits_for_its_first_chunk(tmp_path: Path) -> None:
    store = growing(tmp_path)
    with ThreadPoolExecutor(1) as pool, asked(store, growth_in(tmp_path)) as admissions:
        answer = pool.submit(admissions, 0)
        assert wait_for([answer], timeout=0.1).not_done
        write(store, 3)
        assert answer.result(30).tolist() == [3]


def test_from_a_position_on_an_epoch_waits_for_all_chunks(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, 0, 1), growth_in(tmp_path, until=16)
    with ThreadPoolExecutor(1) as pool, asked(store, growth) as admissions:
        assert admissions(0).tolist() == [0, 1]  # 16 positions: two visits to two chunks of four rows
        answer = pool.submit(admissions, 1)
        for chunk in (2, 3, 4):
            write(store, chunk)
        assert wait_for([answer], timeout=0.1).not_done
        write(store, 5)
        assert answer.result(30).tolist() == list(range(CHUNKS))


def test_waiting_ends_when_nobody_simulates_any_more(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, 0), growth_in(tmp_path, until=8)
    words = "trajectories.zarr is not sealed, and nobody simulates; run the integrate step again"
    with ThreadPoolExecutor(1) as pool, asked(store, growth) as admissions:
        admissions(0)
        answer = pool.submit(admissions, 1)
        assert wait_for([answer], timeout=0.05).not_done
        end_growth(growth.folder)
        with pytest.raises(HaltedError, match=words):
            answer.result(30)
    end_growth(growth.folder)  # twice does no harm
    complete(store)
    assert len(asked(store, growth)(1)) == CHUNKS


def test_waiting_ends_when_nobody_reads_any_more(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with asked(growing(tmp_path), growth_in(tmp_path)) as admissions:
            answer = pool.submit(admissions, 0)
        with pytest.raises(HaltedError, match="nobody reads"):
            answer.result(30)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"version": 1, "chunks": []}',
        b'{"version": 1, "chunks": [[0, 0]]}',
        b'{"version": 1, "chunks": [[0, 7]]}',
        b'{"version": 1, "chunks": [[-1, 2]]}',
        b'{"version": 1, "chunks": [[0, 2], [1, 3]]}',
        b'{"version": 1, "chunks": "0"}',
    ],
)
def test_a_record_that_is_none_is_damage(content: bytes, tmp_path: Path) -> None:
    store, growth = growing(tmp_path, 0), growth_in(tmp_path)
    (tmp_path / "admissions" / "epoch-000000.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"epoch-000000\.json"):
        asked(store, growth)(0)


def stream(
    store: TrajectoryStore, growth: Growth | None, *, rank: int = 0, world: int = 1, place: Place | None = None
) -> PairStream:
    return PairStream(store, SPEC, rank=rank, world=world, place=place, growth=growth)


def batches(source: PairStream) -> Any:
    iterator: Iterator[PairBatch] = iter(source)
    return closing(iterator)


def take(source: PairStream, count: int) -> list[PairBatch]:
    with batches(source) as endless:
        return list(islice(endless, count))


COUNT = 30  # batches: 360 positions, half of them on parts of the store, then more than four epochs over all of it
COMING = {0: (1,), 2: (2,), 4: (3,), 6: (4, 5)}  # chunks that are committed after a batch, in time for the next ones


def test_a_growing_stream_goes_on_from_every_place_in_any_world(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, 0), growth_in(tmp_path, until=180)
    source = stream(store, growth)
    seen, places = [], [source.place]
    with batches(source) as endless:
        for k, batch in enumerate(islice(endless, COUNT)):
            seen.append(batch)
            places.append(source.place)
            for chunk in COMING.get(k, ()):
                write(store, chunk)
    assert len({place.manifest for place in places}) == 1
    assert len(records(growth)) > 3
    store.seal(rows=ROWS)
    end_growth(growth.folder)
    whole = [as_bytes(batch) for batch in seen]
    for k, place in enumerate(places[:-1]):
        ahead = min(COUNT - k, 8)  # over some epochs
        for world in (1, 2, 3):
            parts = [take(stream(store, growth, rank=rank, world=world, place=place), ahead) for rank in range(world)]
            assert [as_bytes(joined(list(of_ranks))) for of_ranks in zip(*parts, strict=True)] == whole[k : k + ahead]


def test_the_second_half_of_a_growing_training_sees_all_rows_alike(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, 0), growth_in(tmp_path, until=180)
    source, rows = stream(store, growth), []
    with batches(source) as endless:
        for k, batch in enumerate(islice(endless, COUNT)):
            rows.append(batch.x_t[:, 0].astype(int))  # the values tell which trajectory they belong to
            for chunk in COMING.get(k, ()):
                write(store, chunk)
    first, second = np.concatenate(rows[:15]), np.concatenate(rows[15:])
    assert set(first[:8].tolist()) == {0, 1, 2, 3}
    counts = np.bincount(second, minlength=ROWS)
    assert counts.min() >= 2 * (len(second) // (VISITS * ROWS) - 1)
    assert counts.max() - counts.min() <= 2 * VISITS  # but for the epochs that begin before or end behind


def test_with_all_chunks_there_it_is_the_stream_of_the_sealed_store(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, *range(CHUNKS)), growth_in(tmp_path)
    before = stream(store, growth)
    found = [as_bytes(batch) for batch in take(before, 12)]
    store.seal(rows=ROWS)
    assert found == [as_bytes(batch) for batch in take(stream(store, None), 12)]
    assert stream(store, growth).place.manifest == before.place.manifest != stream(store, None).place.manifest


def test_a_place_in_an_epoch_without_a_record_is_refused(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, 0), growth_in(tmp_path)
    source = stream(store, growth)
    take(source, 3)
    assert source.place.epoch == 4
    stream(store, growth, place=source.place)
    (tmp_path / "admissions" / "epoch-000002.json").unlink()
    with pytest.raises(StreamConflictError, match=r"cannot go on in epoch 4: .*admissions has no record of epoch 2"):
        stream(store, growth, place=source.place)


def test_a_place_of_another_plan_or_count_is_refused(tmp_path: Path) -> None:
    store, growth = growing(tmp_path, *range(CHUNKS)), growth_in(tmp_path)
    source = stream(store, growth)
    take(source, 1)
    other = replace(SPEC, rows=ROWS - 1)
    with pytest.raises(StreamConflictError, match="other trajectories"):
        PairStream(store, other, rank=0, world=1, place=source.place, growth=growth)


def test_a_stream_that_has_enough_to_read_notices_that_nobody_simulates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admissions_module, "_WATCH_SECONDS", 0.0)
    store, growth = growing(tmp_path, 0), growth_in(tmp_path)
    with batches(stream(store, growth)) as endless:
        next(endless)
        end_growth(growth.folder)
        with pytest.raises(HaltedError, match="nobody simulates"):
            next(endless)


def test_a_stream_that_is_left_while_it_waits_ends(tmp_path: Path) -> None:
    store = growing(tmp_path, 0, 1, 2)
    with batches(stream(store, growth_in(tmp_path, until=24))) as endless:
        next(endless)  # the first of two batches, while a thread waits for all chunks
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-pairs")]
