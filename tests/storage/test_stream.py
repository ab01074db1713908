"""The stream of pairs: the same for any number of readers, from any position on."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import stream as stream_module
from storage.errors import DamagedError, IncompleteError, InputError, StreamConflictError
from storage.stream import PairBatch, PairStream, Place, StreamSpec
from storage.trajectories import TrajectoryStore
from tests.storage.stores import CONDITIONAL, PLAN, chunk_file, filled, label_file, plan_of, values

SPEC = StreamSpec(rows=22, batch_size=8, seed=3, visits=2, full_span_share=0.25)


@pytest.fixture(autouse=True)
def narrow_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a handful of chunks make several windows."""
    monkeypatch.setattr(stream_module, "WINDOW_CHUNKS", 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return filled(tmp_path_factory.mktemp("stream"), rows=22)


def stream(
    store: TrajectoryStore, spec: StreamSpec = SPEC, *, rank: int = 0, world: int = 1, place: Place | None = None
) -> PairStream:
    return PairStream(store, spec, rank=rank, world=world, place=place)


def place_in(store: TrajectoryStore, spec: StreamSpec = SPEC, *, epoch: int = 0, position: int = 0) -> Place:
    return replace(stream(store, spec).place, epoch=epoch, position=position)


def take(source: PairStream, count: int) -> list[PairBatch]:
    with closing(batches(source)) as endless:
        return list(islice(endless, count))


def batches(source: PairStream) -> Any:
    iterator: Iterator[PairBatch] = iter(source)
    return iterator


def as_bytes(batch: PairBatch) -> tuple[bytes, ...]:
    arrays = (batch.x_t, batch.x_s, batch.t, batch.s, *([] if batch.label is None else [batch.label]))
    return tuple(array.tobytes() for array in arrays)


def joined(parts: list[PairBatch]) -> PairBatch:
    names = ("x_t", "x_s", "t", "s", *([] if parts[0].label is None else ["label"]))
    return PairBatch(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the list that gets each chunk's number before it is read."""
    read: list[int] = []
    real = TrajectoryStore.read_chunk

    def counting(self: TrajectoryStore, chunk: int, **kwargs: Any) -> Any:
        read.append(chunk)
        return real(self, chunk, **kwargs)

    monkeypatch.setattr(TrajectoryStore, "read_chunk", counting)
    return read


def grows_beyond(length: int, read: list[int]) -> bool:
    """Wait some seconds for it."""
    deadline = time.monotonic() + 20
    while len(read) <= length and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(read) > length


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return filled(tmp_path_factory.mktemp("labelled"), rows=22, plan=CONDITIONAL)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_the_parts_of_all_ranks_joined_are_the_batch_of_one_reader(world: int, store: TrajectoryStore) -> None:
    alone = take(stream(store), 15)
    parts = [take(stream(store, rank=rank, world=world), 15) for rank in range(world)]
    for k, batch in enumerate(alone):
        assert as_bytes(joined([part[k] for part in parts])) == as_bytes(batch)


@pytest.mark.parametrize(("batch_size", "world"), [(4, 1), (4, 4), (6, 2), (6, 3), (6, 6)])
def test_a_restored_stream_goes_on_exactly_from_every_position(
    batch_size: int, world: int, store: TrajectoryStore
) -> None:
    """Through more than two epochs of 44 positions, so batches of 6 span the epochs' ends and those of 4 meet them."""
    spec = replace(SPEC, batch_size=batch_size)
    count, places = 100 // batch_size, [place_in(store, spec)]
    source = stream(store, spec, rank=world - 1, world=world)
    seen = [as_bytes(batch) for batch in take_watching(source, count, places)]
    assert places[-1].epoch == 2
    for k, place in enumerate(places[:-1]):
        again = stream(store, spec, rank=world - 1, world=world, place=place)
        rest = [as_bytes(batch) for batch in take(again, count - k)]
        assert rest == seen[k:], place
        assert again.place == places[-1]


def take_watching(source: PairStream, count: int, places: list[Place]) -> Iterator[PairBatch]:
    with closing(batches(source)) as endless:
        for batch in islice(endless, count):
            places.append(source.place)
            yield batch


def test_positions_count_pairs_and_wrap_with_the_epoch(store: TrajectoryStore) -> None:
    places = [place_in(store)]
    for _ in take_watching(stream(store), 12, places):
        pass
    ends = [44 * place.epoch + place.position for place in places]
    assert ends == list(range(0, 97, 8))
    assert all(0 <= place.position <= 44 for place in places)


def test_a_stream_may_start_at_any_position_even_between_batches(store: TrajectoryStore) -> None:
    one_by_one = take(stream(store, replace(SPEC, batch_size=1)), 100)
    for start in (*range(0, 89, 3), 43, 44, 87, 88):
        epoch, position = divmod(start, 44)
        found = take(stream(store, place=place_in(store, epoch=epoch, position=position)), 1)[0]
        assert as_bytes(found) == as_bytes(joined(one_by_one[start : start + 8]))


def test_the_end_of_an_epoch_is_the_start_of_the_next(store: TrajectoryStore) -> None:
    ended, begun = (
        take(stream(store, place=place), 3) for place in (place_in(store, position=44), place_in(store, epoch=1))
    )
    assert [as_bytes(batch) for batch in ended] == [as_bytes(batch) for batch in begun]


@pytest.mark.parametrize("dim", [(2,), (1, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pair_is_two_points_of_one_stored_trajectory_at_the_stated_times(
    dtype: str, dim: tuple[int, ...], tmp_path: Path
) -> None:
    plan = plan_of(dtype=dtype, dim=dim)
    store = filled(tmp_path, rows=22, plan=plan)
    x = store.read_rows(0, 22)
    for batch in take(stream(store), 12):
        assert batch.x_t.shape == batch.x_s.shape == (8, *dim)
        assert batch.x_t.dtype == batch.x_s.dtype == np.dtype(dtype)
        assert (batch.t < batch.s).all()
        for row in range(8):
            index = int(batch.x_t[row].flat[0])  # the values tell which trajectory they belong to
            k, l = plan.times.index(batch.t[row]), plan.times.index(batch.s[row])  # noqa: E741
            assert np.array_equal(batch.x_t[row], x[index, k])
            assert np.array_equal(batch.x_s[row], x[index, l])


def test_an_epoch_gives_every_row_as_often_as_asked_and_none_beyond_the_count(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=22)
    for rows, visits in ((22, 2), (13, 1), (13, 4), (3, 2)):
        spec = StreamSpec(rows=rows, batch_size=1, seed=0, visits=visits, full_span_share=0.0)
        for epoch in (0, 1):
            found = take(stream(store, spec, place=place_in(store, spec, epoch=epoch)), rows * visits)
            drawn = np.bincount([int(batch.x_t[0, 0]) for batch in found])
            assert drawn.tolist() == [visits] * rows


@settings(max_examples=12)
@given(
    st.integers(1, 22),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 2**32),
    st.integers(0, 200),
)
def test_any_stream_is_the_same_for_any_world_and_start(
    store: TrajectoryStore, rows: int, visits: int, part: int, world: int, seed: int, start: int
) -> None:
    spec = StreamSpec(rows=rows, batch_size=part * world, seed=seed, visits=visits, full_span_share=0.5)
    epoch, position = divmod(start, rows * visits)
    place = place_in(store, spec, epoch=epoch, position=position)
    alone = take(stream(store, replace(spec, batch_size=1), place=place), 3 * part * world)
    parts = [take(stream(store, spec, rank=rank, world=world, place=place), 3) for rank in range(world)]
    together = [part_[k] for k in range(3) for part_ in parts]
    assert as_bytes(joined(together)) == as_bytes(joined(alone))


@pytest.mark.parametrize(("rows", "world"), [(22, 1), (22, 4), (13, 2), (3, 1)])
def test_the_rows_of_a_batch_are_a_function_of_the_place_where_it_begins(
    rows: int, world: int, store: TrajectoryStore
) -> None:
    """Over ends of visits, windows and epochs; the values of a pair tell its row."""
    spec = replace(SPEC, rows=rows)
    for rank in range(world):
        places, source = [place_in(store, spec)], stream(store, spec, rank=rank, world=world)
        for batch in take_watching(source, 12, places):
            assert source.rows_at(places[-2]).tolist() == batch.x_t[:, 0].astype(int).tolist()


def test_other_seeds_give_other_pairs(store: TrajectoryStore) -> None:
    first = {as_bytes(take(stream(store, replace(SPEC, seed=seed)), 1)[0]) for seed in range(5)}
    assert len(first) == 5


def test_a_batch_belongs_to_its_receiver(store: TrajectoryStore) -> None:
    kept = take(stream(store), 12)
    before = [as_bytes(batch) for batch in kept]
    for batch in take(stream(store), 12):
        batch.x_t[:] = batch.x_s[:] = np.nan
        batch.t[:] = -1
    assert [as_bytes(batch) for batch in kept] == before
    assert [as_bytes(batch) for batch in take(stream(store), 12)] == before


def test_each_chunk_is_read_once_an_epoch_and_those_behind_the_place_not_at_all(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reads_of(monkeypatch)
    monkeypatch.setattr(stream_module, "_READERS", 1)  # two may begin in either order
    take(stream(store), 5)  # 40 of 44 pairs: all windows of the epoch, and perhaps one of the next, read ahead
    assert sorted(read[:6]) == list(range(6))
    assert len(read) <= 8
    everything = list(read[:6])
    read.clear()
    take(stream(store, place=place_in(store, position=43)), 0)
    assert read == []  # nothing is read before it is asked for
    take(stream(store, place=place_in(store, position=43)), 1)
    assert read[:2] == everything[4:]
    read.clear()
    take(stream(store, place=place_in(store, position=44)), 1)
    ended = list(read)
    read.clear()
    take(stream(store, place=place_in(store, epoch=1)), 1)
    assert ended[:2] == read[:2]  # more may have been read ahead


def test_the_next_window_is_not_read_while_batches_are_drawn_in_a_row(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_PAUSE_SECONDS", 0.3)
    read = reads_of(monkeypatch)
    with closing(batches(stream(store, replace(SPEC, batch_size=4)))) as endless:
        next(endless)
        first = list(read)
        list(islice(endless, 2))
        assert read == first
        assert grows_beyond(2, read)
    assert len(first) == 2


def test_who_draws_without_a_pause_has_each_window_read_at_once(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that nobody makes would last a minute."""
    monkeypatch.setattr(stream_module, "_PAUSE_SECONDS", 60.0)
    read = reads_of(monkeypatch)
    began = time.monotonic()
    with closing(batches(stream(store))) as endless:
        list(islice(endless, 22))
        assert grows_beyond(24, read)  # 22 batches are four epochs of six chunks; the next was not asked for
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("sealed", [None, 12])
def test_a_store_that_is_not_sealed_over_the_rows_is_refused(sealed: int | None, tmp_path: Path) -> None:
    store = filled(tmp_path, rows=22, chunks=range(6))
    if sealed:
        store.seal(rows=sealed)
    words = "is not sealed" if sealed is None else "is sealed over 12 rows"
    with pytest.raises(
        IncompleteError, match=f"{words}, asked for 22; run the integrate step, or charflow verify --repair$"
    ):
        stream(store)
    if sealed:
        take(stream(store, replace(SPEC, rows=12)), 1)


def test_a_place_has_the_same_words_at_any_time(store: TrajectoryStore) -> None:
    places = [place_in(store)]
    for _ in take_watching(stream(store), 12, places):
        pass
    kinds = [{name: type(value) for name, value in asdict(place).items()} for place in places]
    assert kinds == [{"seed": int, "epoch": int, "position": int, "manifest": str}] * 13
    assert len({(place.seed, place.manifest) for place in places}) == 1


def test_a_place_of_another_seed_is_refused(store: TrajectoryStore) -> None:
    place = place_in(store, position=8)
    with pytest.raises(StreamConflictError, match="the stream of seed 4 cannot go on from a place of seed 3"):
        stream(store, replace(SPEC, seed=4), place=place)


def test_a_place_in_other_trajectories_is_refused(store: TrajectoryStore, tmp_path: Path) -> None:
    other = filled(tmp_path / "plan", rows=22, plan=plan_of(seed=8))
    changed = filled(tmp_path / "bytes", rows=22, chunks=range(5))
    changed.write_chunk(5, values(PLAN, 5) + 1)
    changed.seal(rows=22)
    for place in (place_in(other), place_in(changed), place_in(store, replace(SPEC, rows=21))):
        words = f"other trajectories than those of .*: their manifest is {place.manifest[:12]}, here it is "
        with pytest.raises(StreamConflictError, match=words):
            stream(store, place=place)


@pytest.mark.parametrize("has_digests", [True, False])
def test_a_place_outlives_growth_and_the_same_store_made_again(has_digests: bool, tmp_path: Path) -> None:
    store = filled(tmp_path / "a", rows=22)
    place = replace(place_in(store), position=16)
    rest = [as_bytes(batch) for batch in take(stream(store, place=place), 5)]
    grown = filled(tmp_path / "b", rows=30)
    if not has_digests:
        (tmp_path / "b" / "trajectories.ledger" / "digests.json").unlink()
    assert grown.ledger.manifest() != store.ledger.manifest()
    assert [as_bytes(batch) for batch in take(stream(grown, place=place), 5)] == rest


def test_a_batch_that_cannot_be_divided_is_bad_input(store: TrajectoryStore) -> None:
    with pytest.raises(InputError, match=r"generator\.batch_size must be a multiple of 3 workers, got 8"):
        stream(store, world=3)


def test_damage_stops_the_stream(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=22)
    for chunk in range(6):
        chunk_file(store, chunk).write_bytes(b"\0" * 132)
    with pytest.raises(DamagedError, match="run charflow verify --repair"):
        take(stream(store), 1)


def test_a_store_with_one_chunk_and_a_batch_larger_than_an_epoch_streams_too(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=3, plan=PLAN)
    spec = StreamSpec(rows=3, batch_size=20, seed=0, visits=1, full_span_share=0.0)
    batch = take(stream(store, spec), 1)[0]
    assert sorted(batch.x_t[:18, 0].tolist()) == [0.0] * 6 + [1.0] * 6 + [2.0] * 6


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_pair_has_the_label_of_its_trajectory(world: int, labelled: TrajectoryStore) -> None:
    for rank in range(world):
        for batch in take(stream(labelled, rank=rank, world=world), 15):
            assert batch.label is not None
            assert batch.label.dtype == np.int64
            assert (
                batch.label.tolist() == (batch.x_t[:, 0].astype(int) % 3 - 1).tolist()
            )  # as tests.storage.stores says


def test_labels_change_no_pair_and_join_and_resume_like_them(labelled: TrajectoryStore, store: TrajectoryStore) -> None:
    alone = take(stream(labelled), 15)
    assert [as_bytes(batch)[:4] for batch in alone] == [as_bytes(batch) for batch in take(stream(store), 15)]
    parts = [take(stream(labelled, rank=rank, world=2), 15) for rank in range(2)]
    assert [as_bytes(joined(list(pair))) for pair in zip(*parts, strict=True)] == [as_bytes(batch) for batch in alone]
    rest = take(stream(labelled, place=place_in(labelled, position=24)), 12)
    assert [as_bytes(batch) for batch in rest] == [as_bytes(batch) for batch in alone[3:]]


def test_a_batch_without_labels_says_so_and_those_of_one_with_belong_to_its_receiver(
    store: TrajectoryStore, labelled: TrajectoryStore
) -> None:
    assert take(stream(store), 1)[0].label is None
    kept = take(stream(labelled), 12)
    before = [as_bytes(batch) for batch in kept]
    for batch in take(stream(labelled), 12):
        assert batch.label is not None
        batch.label[:] = -7
    assert [as_bytes(batch) for batch in kept] == before


def test_fewer_rows_than_the_store_spans_have_their_labels_too(labelled: TrajectoryStore) -> None:
    for batch in take(stream(labelled, replace(SPEC, rows=13)), 12):
        assert batch.label is not None
        assert batch.label.tolist() == (batch.x_t[:, 0].astype(int) % 3 - 1).tolist()
        assert batch.x_t[:, 0].max() < 13


def test_damaged_labels_stop_the_stream(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=22, plan=CONDITIONAL)
    for chunk in range(6):
        label_file(store, chunk).write_bytes(b"\0" * 36)
    with pytest.raises(DamagedError, match="run charflow verify --repair"):
        take(stream(store), 1)
