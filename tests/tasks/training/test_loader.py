"""Batches for velocity matching: whose rows, in which order, with which noise and times."""

from pathlib import Path

import numpy as np
import pytest
import torch

from storage.data import DataStore, ingest_dataset
from storage.errors import InputError
from tasks.ingest import SyntheticDataset
from tasks.specs import DatasetSpec
from tasks.training.group import Group, alone
from tasks.training.loader import matching_batches, read_rank_rows


def store_of(path: Path, *, rows: int = 100, shards: int = 8) -> DataStore:
    dataset = SyntheticDataset(DatasetSpec(kind="moons").target(), rows=rows, seed=1)
    return ingest_dataset(path, dataset, source={}, shards=shards, standardise=True)


def member(rank: int, world: int) -> Group:
    return Group(rank=rank, world=world, average=lambda _: None)


def test_the_ranks_divide_the_rows_among_them(tmp_path: Path) -> None:
    store = store_of(tmp_path / "data.zarr")
    parts = [read_rank_rows(store, member(rank, 3)) for rank in range(3)]
    together = np.concatenate([part.numpy() for part in parts])
    whole = read_rank_rows(store, alone()).numpy()
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, whole.tolist()))
    assert len(whole) == 100


def test_fewer_shards_than_workers_are_refused_by_name(tmp_path: Path) -> None:
    store = store_of(tmp_path / "data.zarr", shards=2)
    with pytest.raises(InputError, match=r"dataset\.shards must be at least velocity\.workers \(3\), got 2"):
        read_rank_rows(store, member(0, 3))


def test_every_epoch_visits_every_row_once() -> None:
    data = torch.arange(30.0).reshape(30, 1)
    stream = matching_batches(data, seed=5, step=0, batch_size=8, stop=0.9, group=alone())
    seen = torch.cat([next(stream).x1 for _ in range(15)]).flatten()  # 120 = four epochs of 30
    for epoch in range(4):
        assert sorted(seen[30 * epoch : 30 * (epoch + 1)].tolist()) == list(range(30))
    assert seen[:30].tolist() != seen[30:60].tolist()


def test_a_stream_begun_at_a_later_step_gives_the_same_rest() -> None:
    data = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    first = matching_batches(data, seed=5, step=0, batch_size=16, stop=0.9, group=alone())
    for _ in range(7):
        next(first)
    later = matching_batches(data, seed=5, step=7, batch_size=16, stop=0.9, group=alone())
    for _ in range(5):
        a, b = next(first), next(later)
        assert torch.equal(a.x1, b.x1)
        assert torch.equal(a.x0, b.x0)
        assert torch.equal(a.t, b.t)


def test_times_fill_the_interval_evenly_and_noise_is_standard_and_differs_by_rank_and_step() -> None:
    data = torch.zeros(4000, 2)
    batches = {
        (rank, step): next(matching_batches(data, seed=5, step=step, batch_size=8000, stop=0.9, group=member(rank, 2)))
        for rank in range(2)
        for step in range(2)
    }
    for batch in batches.values():
        assert batch.t.shape == (4000,)
        counts = torch.histc(batch.t, bins=40, min=0, max=0.9)
        assert counts.min() >= 98  # one time in each of 4000 equal parts
        assert counts.max() <= 102
        assert batch.x0.mean().abs() < 4 / 8000**0.5
        assert (batch.x0.std() - 1).abs() < 0.04
    pairs = list(batches.values())
    for i in range(4):
        for j in range(i):
            correlation = (pairs[i].x0 * pairs[j].x0).mean()
            assert correlation.abs() < 5 / 8000**0.5
