"""Batches for velocity matching: whose rows, in which order, with which noise, times and labels."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.chunks import ChunkGrid, even_shards
from storage.data import DataStore, Labels, Values, ingest_dataset
from storage.errors import InputError
from tasks.training.group import Group, alone
from tasks.training.loader import Draw, MatchingBatch, matching_batches, matching_rows, require_divisible, stream_grid


class Counted:
    """Row i is the number i, twice; its class is i modulo 5."""

    dim = (2,)
    has_labels = True
    classes = tuple("abcde")

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        numbers = np.arange(start, stop)
        return np.repeat(numbers[:, None], 2, 1).astype(np.float32), numbers % 5

    def where(self, row: int) -> str:
        return f"row {row}"


def store_of(folder: Path, *, rows: int = 100, shards: int = 8) -> DataStore:
    return ingest_dataset(folder / "data.zarr", Counted(rows), source={}, shards=shards, standardise=False)


def member(rank: int, world: int) -> Group:
    return Group(rank=rank, world=world, average=lambda _: None)


def draw(*, batch_size: int = 16, label_dropout: float | None = None, seed: int = 5) -> Draw:
    return Draw(seed=seed, batch_size=batch_size, stop=0.9, label_dropout=label_dropout)


def some(store: DataStore, spec: Draw, *, steps: int, step: int = 0, group: Group | None = None) -> list[MatchingBatch]:
    return list(islice(matching_batches(store, spec, step=step, group=group or alone()), steps))


def rows_of(batch: MatchingBatch) -> list[tuple[float, ...]]:
    """Everything about each row, in an order of its own."""
    assert batch.label is not None
    columns: list[Tensor] = [batch.t[:, None], batch.x0, batch.x1, batch.weight[:, None], batch.label[:, None]]
    return sorted(map(tuple, torch.cat(columns, 1).tolist()))


def test_parts_that_are_drawn_side_by_side_for_a_gpu_are_the_same(tmp_path: Path) -> None:
    store, spec = store_of(tmp_path), draw(label_dropout=0.5)
    here = some(store, spec, steps=20)
    beside = some(store, spec, steps=20, group=alone(torch.device("cuda")))
    assert all(rows_of(a) == rows_of(b) and torch.equal(a.x0, b.x0) for a, b in zip(here, beside, strict=True))


@pytest.mark.parametrize("shards", [4, 8, 12])
@pytest.mark.parametrize("world", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_workers(tmp_path: Path, shards: int, world: int) -> None:
    store, spec = store_of(tmp_path, rows=101, shards=shards), draw(batch_size=32, label_dropout=0.3)
    whole = some(store, spec, steps=9)
    ranks = [some(store, spec, steps=9, group=member(rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert {len(part.t) for part in parts} == {32 // world}
        assert rows_of(batch) == sorted(row for part in parts for row in rows_of(part))


def test_a_worker_reads_its_own_shards_only(tmp_path: Path) -> None:
    store = store_of(tmp_path, rows=101, shards=8)  # 13 rows each
    for rank in range(4):
        seen = torch.cat([batch.x1[:, 0] for batch in some(store, draw(), steps=80, group=member(rank, 4))])
        assert {int(row) // 13 % 4 for row in seen} == {rank}


@pytest.mark.parametrize("step", range(12))
def test_a_stream_begun_at_any_step_gives_the_same_rest(tmp_path: Path, step: int) -> None:
    store, spec = store_of(tmp_path, rows=50), draw(label_dropout=0.2)
    whole = some(store, spec, steps=14)  # over four epochs of a stream
    later = some(store, spec, steps=14 - step, step=step)
    for a, b in zip(whole[step:], later, strict=True):
        for name in ("t", "x0", "x1", "weight", "label"):
            assert torch.equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("world", [1, 2])
def test_the_rows_of_a_batch_are_a_function_of_the_step(tmp_path: Path, world: int) -> None:
    store, spec = store_of(tmp_path, rows=50), draw()
    for rank in range(world):
        for step, batch in enumerate(some(store, spec, steps=14, group=member(rank, world))):
            rows = matching_rows(store, spec, step=step, group=member(rank, world))
            assert rows.tolist() == batch.x1[:, 0].tolist()


def test_every_epoch_of_a_stream_visits_each_of_its_rows_once_in_another_order(tmp_path: Path) -> None:
    store = store_of(tmp_path, rows=28, shards=1)
    seen = torch.cat([batch.x1[:, 0] for batch in some(store, draw(batch_size=8), steps=14)])  # four epochs
    epochs = [seen[28 * k : 28 * (k + 1)].tolist() for k in range(4)]
    assert all(sorted(epoch) == list(range(28)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize(("rows", "shards"), [(101, 8), (20, 8), (1797, 8), (1000, 64), (9, 8), (3, 8)])
def test_every_row_counts_equally_in_the_long_run(tmp_path: Path, rows: int, shards: int) -> None:
    store = store_of(tmp_path, rows=rows, shards=shards)
    grid = stream_grid(store.shards, batch_size=64)
    visits = {k: len(range(grid.count)) / grid.chunk(k).rows for k in range(grid.count)}
    (batch,) = some(store, draw(batch_size=64), steps=1)
    weights = {int(row) // grid.chunk_rows: float(w) for row, w in zip(batch.x1[:, 0], batch.weight, strict=True)}
    for k, weight in weights.items():  # weight times frequency, over its mean of 1 / rows
        assert weight * visits[k] / grid.count**2 * store.rows == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "shards", "batch_size", "count"),
    [
        (50_000, 8, 1024, 8),  # the presets
        (1797, 8, 1024, 8),
        (1797, 8, 100, 4),
        (20, 8, 1024, 4),  # 7 shards are stored
        (1000, 64, 1024, 32),  # 63 are stored
        (100, 9, 96, 3),
        (100, 5, 100, 5),
        (1, 8, 64, 1),
        (100, 8, 1, 1),
    ],
)
def test_streams_are_groups_of_whole_shards(rows: int, shards: int, batch_size: int, count: int) -> None:
    stored = even_shards(rows, shards=shards)
    grid = stream_grid(stored, batch_size=batch_size)
    assert grid.count == count
    assert batch_size % grid.count == 0
    assert grid.chunk_rows % stored.chunk_rows == 0
    assert grid.rows == rows


@pytest.mark.parametrize("shards", range(1, 40))
@pytest.mark.parametrize("batch_size", [1, 7, 60, 1024])
def test_any_shards_and_batch_make_streams(shards: int, batch_size: int) -> None:
    grid = stream_grid(ChunkGrid(10 * shards, 10), batch_size=batch_size)
    assert batch_size % grid.count == 0
    assert grid.chunk(grid.count - 1).rows > 0


def test_workers_that_do_not_divide_the_streams_are_refused_by_name(tmp_path: Path) -> None:
    store = store_of(tmp_path, shards=2)
    message = (
        r"velocity\.workers must divide 2, .* dataset\.shards \(2 stored\) and velocity\.batch_size \(12\).*, got 3"
    )
    with pytest.raises(InputError, match=message):
        require_divisible(store, batch_size=12, workers=3)
    with pytest.raises(InputError, match=message):
        next(matching_batches(store, draw(batch_size=12), step=0, group=member(0, 3)))
    require_divisible(store, batch_size=12, workers=2)


def test_the_global_times_have_one_in_each_equal_part_and_none_at_the_end(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for batch in some(store, draw(batch_size=400), steps=5):
        parts = (batch.t.double() / 0.9 * 400).floor().int()
        assert (torch.sort(parts).values - torch.arange(400)).abs().max() <= 1  # float32 rounds some across an edge
        assert batch.t.max() < 0.9
    assert not torch.equal(*(batch.t for batch in some(store, draw(batch_size=400), steps=2)))


def test_the_times_of_a_single_stream_are_uniform_over_many_steps(tmp_path: Path) -> None:
    """Streams take turns, so that none of them is bound to fixed fractions of the batch's parts."""
    store = store_of(tmp_path)
    t = torch.cat([batch.t for batch in some(store, draw(batch_size=8), steps=4000, group=member(0, 8))])
    assert len(t) == 4000
    counts = torch.histc(t, bins=8, min=0, max=0.9)
    assert (counts - 500).abs().max() < 5 * 500**0.5


def test_noise_is_standard_and_differs_by_stream_step_and_seed(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    noises = [
        batch.x0
        for seed in (5, 6)
        for rank in range(2)
        for batch in some(store, draw(batch_size=8000, seed=seed), steps=2, group=member(rank, 2))
    ]
    for x0 in noises:
        assert x0.mean().abs() < 4 / 8000**0.5
        assert (x0.std() - 1).abs() < 0.04
    streams = [part for x0 in noises for part in torch.split(x0, 1000)]
    for i in range(len(streams)):
        for j in range(i):
            assert (streams[i] * streams[j]).mean().abs() < 5 / 2000**0.5


def test_labels_belong_to_their_rows_and_a_share_is_hidden(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    batches = some(store, draw(batch_size=400, label_dropout=0.25), steps=20)
    labels = torch.cat([batch.label for batch in batches if batch.label is not None])
    rows = torch.cat([batch.x1[:, 0] for batch in batches]).long()
    is_hidden = labels == -1
    assert torch.equal(labels[~is_hidden], rows[~is_hidden] % 5)
    assert abs(is_hidden.float().mean() - 0.25) < 4 * (0.25 * 0.75 / 8000) ** 0.5
    without = some(store, draw(batch_size=400), steps=20)
    assert all(batch.label is None for batch in without)
    assert all(torch.equal(a.x0, b.x0) and torch.equal(a.t, b.t) for a, b in zip(batches, without, strict=True))


def test_no_dropout_hides_nothing(tmp_path: Path) -> None:
    (batch,) = some(store_of(tmp_path), draw(label_dropout=0.0), steps=1)
    assert batch.label is not None
    assert (batch.label >= 0).all()
