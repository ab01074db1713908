"""How the trajectories of a plan become the bytes of a chunk, apart from any store: to try ways of storing."""

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from storage.arrays import ChunkCodec
from storage.specs import TrajectoryPlan
from storage.trajectories import Floats, layout, rounded


class ChunkEncoding:
    """Encodes and decodes trajectories just as a store of the plan does, and writes nothing."""

    def __init__(self, plan: TrajectoryPlan) -> None:
        self._plan = plan
        files = layout(plan, rows=plan.chunk_rows)
        held = {name: default_buffer_prototype().buffer.from_bytes(content) for name, content in files.items()}
        self._codec = ChunkCodec(zarr.open_array(StorePath(MemoryStore(held), "x"), mode="r"))

    def encode(self, x: Floats) -> memoryview:
        """Give the bytes of the file of a whole chunk ``x [chunk_rows, times, *dim]`` of the plan's type."""
        return self._codec.encode(rounded(self._plan, x))

    def decode(self, content: bytes | memoryview) -> Floats:
        """Give the trajectories of a chunk's file, checked by CRC32C."""
        return self._codec.decode(content)
