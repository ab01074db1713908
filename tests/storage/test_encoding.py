"""Encoding apart from a store: the bytes that a store writes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from storage.encoding import ChunkEncoding
from storage.specs import TrajectoryPlan
from storage.trajectories import TrajectoryStore
from tests.storage.stores import CONDITIONAL, chunk_file, labels, plan_of

PLANS = [
    plan_of(),
    plan_of(codec="lz4"),
    plan_of(codec="zstd", mantissa_bits=5),
    plan_of(dtype="float16", codec="zstd"),
    plan_of(times=(0.0, 0.9), grid_times=(0.0, 0.3, 0.55, 0.9), dtype="float64"),
    CONDITIONAL,
]


@pytest.mark.parametrize("plan", PLANS)
def test_it_gives_the_very_bytes_of_a_stores_chunk_and_reads_what_a_store_reads(
    plan: TrajectoryPlan, tmp_path: Path
) -> None:
    shape = (plan.chunk_rows, len(plan.times), *plan.dim)
    x = np.random.default_rng(0).standard_normal(shape).astype(plan.dtype)
    before = x.copy()
    store = TrajectoryStore.create(tmp_path / "trajectories.zarr", plan, rows=2 * plan.chunk_rows)
    store.write_chunk(1, x, label=labels(plan, 1) if plan.is_conditional else None)
    content = ChunkEncoding(plan).encode(x)
    assert content == chunk_file(store, 1).read_bytes()
    decoded = ChunkEncoding(plan).decode(content)
    assert decoded.dtype == plan.dtype
    assert np.array_equal(decoded, store.read_chunk(1))
    assert np.array_equal(x, before)


def test_a_plain_chunk_is_held_once_beside_its_values() -> None:
    plan = plan_of(chunk_rows=50_000)
    encoding, x = ChunkEncoding(plan), np.ones((plan.chunk_rows, len(plan.times), *plan.dim), np.float32)
    encoding.encode(x)
    tracemalloc.start()
    encoding.encode(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert x.nbytes < peak < 1.1 * x.nbytes


def test_a_flipped_bit_is_noticed() -> None:
    content = bytearray(ChunkEncoding(plan_of()).encode(np.ones((4, 4, 2), np.float32)))
    content[7] ^= 1
    with pytest.raises((ValueError, RuntimeError)):
        ChunkEncoding(plan_of()).decode(bytes(content))
