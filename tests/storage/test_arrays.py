"""One array of a store: whole chunks in files of its own, a shape that only grows."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

from storage.arrays import ChunkedArray
from storage.checksum import digest
from storage.errors import DamagedError


@pytest.fixture
def array(tmp_path: Path) -> ChunkedArray:
    group = zarr.create_group(tmp_path, zarr_format=3)
    group.create_array("y", shape=(5, 3), chunks=(4, 3), dtype="int64", compressors=[Crc32cCodec()], fill_value=-2)
    return ChunkedArray(tmp_path, "y", chunk_shape=(4, 3), dtype="int64")


def chunk(first: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    return np.arange(first, first + 12).reshape(4, 3)


def test_a_file_lies_where_zarr_looks_for_it_and_holds_rows_beyond_the_end(array: ChunkedArray, tmp_path: Path) -> None:
    for index in (0, 1):
        content = array.encode(chunk(12 * index))
        array.write(index, content, promised=digest(content))
        assert np.array_equal(array.read(index), chunk(12 * index))
    assert array.key(1) == "y/c/1/0"
    assert array.file(1) == tmp_path / "y" / "c" / "1" / "0"
    whole = np.arange(24).reshape(8, 3)
    assert np.array_equal(zarr.open_array(tmp_path / "y", mode="r")[:], whole[:5])
    array.grow(8)
    assert np.array_equal(zarr.open_array(tmp_path / "y", mode="r")[:], whole)


def test_a_chunk_of_fill_values_is_a_file_too(array: ChunkedArray) -> None:
    content = array.encode(np.full((4, 3), -2))
    array.write(0, content, promised=digest(content))
    assert (array.read(0) == -2).all()


def test_growth_never_shrinks_and_sees_what_another_process_did(array: ChunkedArray, tmp_path: Path) -> None:
    array.grow(3)
    assert array.rows == 5
    ChunkedArray(tmp_path, "y", chunk_shape=(4, 3), dtype="int64").grow(9)
    array.grow(7)
    assert array.rows == 9


def test_a_write_that_reads_back_otherwise_is_damage(array: ChunkedArray) -> None:
    with pytest.raises(DamagedError, match="chunk 0 reads back other bytes"):
        array.write(0, array.encode(chunk(0)), promised="0" * 32)


@pytest.mark.parametrize(("shape", "dtype"), [((3, 3), "int64"), ((4, 3), "int32"), ((4, 3), ">i8")])
def test_values_of_another_shape_or_type_are_refused(shape: tuple[int, ...], dtype: str, array: ChunkedArray) -> None:
    with pytest.raises(ValueError, match=r"a chunk of y must be int64 \(4, 3\)"):
        array.encode(np.zeros(shape, dtype))


@pytest.mark.parametrize(("shape", "dtype"), [((2, 3), "int64"), ((4, 3), "int32")])
def test_another_layout_than_planned_is_damage(
    shape: tuple[int, ...], dtype: str, array: ChunkedArray, tmp_path: Path
) -> None:
    with pytest.raises(DamagedError, match="laid out otherwise than planned"):
        ChunkedArray(tmp_path, "y", chunk_shape=shape, dtype=dtype)
