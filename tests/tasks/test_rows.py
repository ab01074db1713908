"""Rows by number: the right ones, in the order asked for, and not all of the dataset resident."""

from pathlib import Path

import numpy as np
import pytest

from storage.chunks import Shard
from storage.data import DataStore
from tasks.rows import RowReader, take_labels
from tests.tasks.training.test_loader import store_of

ROWS = np.array([99, 0, 13, 12, 50, 13])


def test_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    found = RowReader(store).take(ROWS)
    assert found.tolist() == [[row, row] for row in ROWS]
    found += 1  # they are the caller's own
    assert RowReader(store).take(ROWS).tolist() == [[row, row] for row in ROWS]
    assert take_labels(store, ROWS).tolist() == (ROWS % 5).tolist()  # type: ignore[union-attr]
    assert RowReader(store).take(np.empty(0, np.int64)).shape == (0, 2)


@pytest.mark.parametrize(("held_bytes", "opened"), [(2**30, 8), (100, 160)])
def test_mapped_shards_are_let_go_once_much_of_them_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_bytes: int, opened: int
) -> None:
    store = store_of(tmp_path)
    seen: list[Shard] = []
    view = DataStore.view

    def watched(self: DataStore, shard: Shard) -> np.ndarray:
        seen.append(shard)
        return view(self, shard)

    monkeypatch.setattr(DataStore, "view", watched)
    reader = RowReader(store, held_bytes=held_bytes)
    for _ in range(20):
        assert reader.take(np.arange(100))[:, 0].tolist() == list(range(100))
    assert len(seen) == opened
