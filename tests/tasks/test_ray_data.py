"""A store as a source of Ray Data; its read tasks are called here, without a cluster."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import DamagedError, IncompleteError
from storage.specs import TrajectoryPlan
from tests.storage.stores import CONDITIONAL, PLAN, chunk_file, filled


def source_of(path: str) -> Any:
    """Give the source; Ray reads the environment when imported, which other tests set, so not at collection."""
    from tasks.ray_data import TrajectorySource

    return TrajectorySource(path)


@pytest.mark.parametrize("plan", [PLAN, CONDITIONAL], ids=["plain", "labels"])
def test_one_task_a_chunk_gives_its_rows_and_all_give_the_store(plan: TrajectoryPlan, tmp_path: Path) -> None:
    store = filled(tmp_path, rows=10, plan=plan)
    store.create(store.path, plan, rows=14)  # grown, and not sealed beyond 10
    source = source_of(str(store.path))
    tasks = source.get_read_tasks(64)
    assert [task.metadata.num_rows for task in tasks] == [4, 4, 2]
    assert source.estimate_inmemory_data_size() == 10 * 32
    assert [task.metadata.size_bytes for task in tasks] == [4 * 32, 4 * 32, 2 * 32]
    from ray.data.block import BlockAccessor

    blocks = [BlockAccessor.for_block(block).to_numpy() for task in tasks for block in task()]
    found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    assert set(found) == ({"x", "row", "label"} if plan.is_conditional else {"x", "row"})
    assert found["row"].tolist() == list(range(10))
    assert found["x"].dtype == np.float32
    assert np.array_equal(found["x"], store.read_rows(0, 10))
    if plan.is_conditional:
        assert found["label"].tolist() == [row % 3 - 1 for row in range(10)]


def test_a_store_that_is_not_sealed_or_not_there_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=10, chunks=range(3))
    with pytest.raises(IncompleteError, match=r"is not sealed; run the integrate step, or charflow verify --repair$"):
        source_of(str(store.path))
    with pytest.raises(IncompleteError, match="is missing; run the integrate step first"):
        source_of(str(tmp_path / "elsewhere.zarr"))


def test_damage_is_raised_by_the_task_that_meets_it(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=10)
    chunk_file(store, 1).write_bytes(b"\0" * 132)
    first, second, _ = source_of(str(store.path)).get_read_tasks(1)
    assert len(list(first())) == 1
    with pytest.raises(DamagedError, match=r"chunk 1 .* is damaged; run charflow verify --repair"):
        list(second())
