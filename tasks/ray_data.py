"""A sealed store of trajectories as a source of Ray Data, for whoever computes over trajectories there.

    ray.data.read_datasource(TrajectorySource("runs/digits/trajectories.zarr"))

A row has ``x [times, *dim]``, ``row``, its number in the store, and ``label``, -1 for none, where the store has labels.
Each chunk is one read task, checked by CRC32C. Ray Data cannot resume in the middle of an epoch; what must is trained
from storage/stream.py.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray.data import Datasource, ReadTask
from ray.data.block import BlockAccessor, BlockMetadata

from storage.chunks import Shard
from storage.errors import IncompleteError
from storage.paths import Location, root_location
from storage.trajectories import TrajectoryStore, row_bytes


class TrajectorySource(Datasource):
    """The trajectories over which a store is sealed.

    Args:
        path: of the store, which every node sees; or its address on an object store.

    Raises:
        IncompleteError: there is no store, or it is not sealed.
        DamagedError: its plan or an array's description makes no sense.
    """

    def __init__(self, path: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        found = root_location(path)
        self._path: Location = found.resolve() if isinstance(found, Path) else found
        store = TrajectoryStore.open(self._path)
        manifest = store.ledger.manifest()
        if manifest is None:
            raise IncompleteError(f"{self._path} is not sealed; run the integrate step, or charflow verify --repair")
        self._grid = store.grid(manifest.rows)
        self._row_bytes = row_bytes(store.plan.dim, times=len(store.plan.times), dtype=store.plan.dtype)

    def get_name(self) -> str:
        """Give the name that Ray shows."""
        return "Trajectories"

    def estimate_inmemory_data_size(self) -> int:
        """Give the bytes of all trajectories, decoded."""
        return self._grid.rows * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Give one task a chunk, whatever parallelism is asked for: a chunk is read whole or not at all."""
        return [
            ReadTask(
                partial(_read, self._path, chunk=chunk, shard=self._grid.chunk(chunk)),
                self._metadata(self._grid.chunk(chunk).rows),
                per_task_row_limit=per_task_row_limit,
            )
            for chunk in range(self._grid.count)
        ]

    def _metadata(self, rows: int) -> BlockMetadata:
        return BlockMetadata(num_rows=rows, size_bytes=rows * self._row_bytes, input_files=None, exec_stats=None)


def _read(path: Location, *, chunk: int, shard: Shard) -> Iterator[Any]:
    """Give the one block of a chunk."""
    store = TrajectoryStore.open(path)
    columns = {"x": store.read_chunk(chunk)[: shard.rows], "row": np.arange(shard.start, shard.stop)}
    if store.plan.is_conditional:
        columns["label"] = store.read_labels(chunk)[: shard.rows]
    yield BlockAccessor.batch_to_block(columns)
