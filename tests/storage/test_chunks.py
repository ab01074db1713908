"""The arithmetic of row ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.chunks import ChunkGrid, Shard, default_chunk_rows, even_shards

ROWS, SIZES = st.integers(0, 1000), st.integers(1, 1100)


@given(ROWS, SIZES)
def test_chunks_partition_the_rows_in_order(rows: int, chunk_rows: int) -> None:
    grid = ChunkGrid(rows, chunk_rows)
    chunks = [grid.chunk(index) for index in range(grid.count)]
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == list(range(rows))
    assert all(chunk.rows == chunk_rows for chunk in chunks[:-1])
    assert all(1 <= chunk.rows <= chunk_rows for chunk in chunks[-1:])


@given(ROWS, ROWS, SIZES)
def test_growth_changes_no_whole_chunk(one: int, other: int, chunk_rows: int) -> None:
    small, large = ChunkGrid(min(one, other), chunk_rows), ChunkGrid(max(one, other), chunk_rows)
    for index in range(small.rows // chunk_rows):
        assert small.chunk(index) == large.chunk(index)


@given(ROWS, SIZES, st.sampled_from([-1, 0, 1]))
def test_a_chunk_that_is_not_there_is_refused(rows: int, chunk_rows: int, beyond: int) -> None:
    grid = ChunkGrid(rows, chunk_rows)
    index = -1 if beyond < 0 else grid.count + beyond
    with pytest.raises(IndexError, match=f"got {index}"):
        grid.chunk(index)


@given(st.integers(1, 1000), st.integers(1, 50))
def test_even_shards_are_few_and_cover_the_rows(rows: int, shards: int) -> None:
    grid = even_shards(rows, shards=shards)
    assert grid.rows == rows
    assert 1 <= grid.count <= shards
    sizes = [grid.chunk(index).rows for index in range(grid.count)]
    assert set(sizes[:-1]) <= {-(-rows // shards)}


@given(st.integers(1, 10**9))
def test_default_chunk_rows_are_the_largest_power_of_two_that_fits(row_bytes: int) -> None:
    rows = default_chunk_rows(row_bytes, chunk_bytes=1000, most=64)
    assert rows & (rows - 1) == 0
    assert 1 <= rows <= 64
    assert rows == 1 or rows * row_bytes <= 1000
    assert rows == 64 or 2 * rows * row_bytes > 1000


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2)])
def test_a_backward_or_negative_shard_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"got {start} and {stop}"):
        Shard(start, stop)


@pytest.mark.parametrize(("rows", "chunk_rows"), [(-1, 1), (1, 0)])
def test_a_grid_without_sense_is_refused(rows: int, chunk_rows: int) -> None:
    with pytest.raises(ValueError, match=f"got {rows} and {chunk_rows}"):
        ChunkGrid(rows, chunk_rows)
