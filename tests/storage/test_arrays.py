"""One array of a store: whole chunks in files of its own, a shape that only grows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec

from storage import arrays
from storage.arrays import ChunkCodec, ChunkedArray
from storage.atomic import write_atomic
from storage.errors import DamagedError
from tests.local import on_disk


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
        array.write(index, content)
        assert np.array_equal(array.read(index), chunk(12 * index))
    assert array.key(1) == "y/c/1/0"
    assert array.file(1) == tmp_path / "y" / "c" / "1" / "0"
    whole = np.arange(24).reshape(8, 3)
    assert np.array_equal(zarr.open_array(tmp_path / "y", mode="r")[:], whole[:5])
    array.grow(8)
    assert np.array_equal(zarr.open_array(tmp_path / "y", mode="r")[:], whole)


def test_a_chunk_of_fill_values_is_a_file_too(array: ChunkedArray) -> None:
    content = array.encode(np.full((4, 3), -2))
    array.write(0, content)
    assert (array.read(0) == -2).all()


def test_growth_never_shrinks_and_sees_what_another_process_did(array: ChunkedArray, tmp_path: Path) -> None:
    array.grow(3)
    assert array.rows == 5
    ChunkedArray(tmp_path, "y", chunk_shape=(4, 3), dtype="int64").grow(9)
    array.grow(7)
    assert array.rows == 9


@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda c: c + b"!", lambda c: b"!" + c[1:], lambda c: b""])
def test_a_write_that_reads_back_otherwise_is_damage(
    spoil: Callable[[bytes], bytes], array: ChunkedArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: memoryview, *, top: Path) -> None:
        write_atomic(path, spoil(bytes(content)), top=top)

    monkeypatch.setattr(arrays, "write_atomic", write)
    with pytest.raises(DamagedError, match="chunk 0 reads back other bytes"):
        array.write(0, array.encode(chunk(0)))


@pytest.fixture(params=["plain", "lz4", "zstd"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedArray:
    blosc = [] if request.param == "plain" else [BloscCodec(cname=request.param, shuffle="bitshuffle", typesize=8)]
    group = zarr.create_group(tmp_path, zarr_format=3)
    group.create_array("y", shape=(8, 3), chunks=(4, 3), dtype="int64", compressors=[*blosc, Crc32cCodec()])
    return ChunkedArray(tmp_path, "y", chunk_shape=(4, 3), dtype="int64")


def put(array: ChunkedArray, index: int, content: bytes | memoryview) -> None:
    file = on_disk(array.file(index))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def with_crc(content: bytes) -> bytes:
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


def test_a_chunk_is_read_in_place_with_one_read_and_nothing_else_is_touched(
    kind: ChunkedArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(kind, 0, kind.encode(chunk(0)))
    put(kind, 1, kind.encode(chunk(7)))
    room = np.zeros((9, 3), np.int64)
    reads: list[int] = []

    def counting(file: FileIO, out: npt.NDArray[np.uint8]) -> None:
        reads.append(len(out))
        read(file, out)

    read = arrays._read
    monkeypatch.setattr(arrays, "_read", counting)
    for index, first in ((1, 7), (0, 0)):
        given = kind.read(index, out=room[3:7])
        assert given.base is room
        assert np.array_equal(room[3:7], chunk(first))
        assert not room[:3].any()
        assert not room[7:].any()
    sizes = [on_disk(kind.file(index)).stat().st_size for index in (1, 0)]
    assert reads in (sizes, [size - 4 for size in sizes])  # the checksum of plain values comes apart


def test_what_files_are_read_into_begins_on_a_page() -> None:
    for shape, dtype in (((), "float32"), ((5, 3), "float64"), ((2**20, 3), "float16")):
        found = arrays.empty_on_page(shape, dtype)
        assert (found.shape, found.dtype) == (shape, np.dtype(dtype))
        assert found.ctypes.data % 4096 == 0
        assert found.flags.c_contiguous
        assert found.flags.writeable


def test_chunks_are_read_by_many_threads_at_once(kind: ChunkedArray) -> None:
    for index in range(2):
        put(kind, index, kind.encode(chunk(100 * index)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(kind.read, [0, 1] * 100))
    assert all(np.array_equal(values, chunk(100 * (k % 2))) for k, values in enumerate(found))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 3), "int64"), ((5, 3), "int64"), ((12,), "int64"), ((4, 3), "int32"), ((4, 3), ">i8")]
)
def test_room_of_another_shape_or_type_is_refused(shape: tuple[int, ...], dtype: str, array: ChunkedArray) -> None:
    put(array, 0, array.encode(chunk(0)))
    for out in (np.zeros(shape, dtype), np.zeros((3, 4), np.int64).T, np.zeros((4, 6), np.int64)[:, ::2]):
        with pytest.raises(ValueError, match=r"a chunk of y goes into contiguous int64 \(4, 3\)"):
            array.read(0, out=out)


def test_a_file_that_is_no_chunk_is_damage_though_its_checksum_fits(kind: ChunkedArray) -> None:
    good = bytes(kind.encode(chunk(0)))
    body = good[:-4]
    other = Blosc(cname="lz4", shuffle=2)
    wrong = [
        b"",
        b"\0",
        b"\0" * 4,  # the checksum of nothing
        body,
        body + b"\0" * 4,
        good + b"\0",
        with_crc(good),
        with_crc(body[:-1]),
        with_crc(body + b"\0"),
        with_crc(chunk(0)[:2].tobytes()),
        with_crc(np.arange(13).tobytes()),
        with_crc(other.encode(np.arange(11))),
        with_crc(other.encode(np.arange(13))),
        with_crc(b"\1"),  # which numpy would broadcast
        with_crc(b"\1" * 15),
        with_crc(b"\1" * 64),
    ]
    for content in wrong:
        put(kind, 0, content)
        with pytest.raises(DamagedError, match=r"chunk 0 of .* is damaged; run charflow verify --repair"):
            kind.read(0, out=np.zeros((4, 3), np.int64))
        with pytest.raises((ValueError, RuntimeError)):  # as an object store's answer is
            ChunkCodec(kind._array).decode(content)
    put(kind, 0, good)
    assert np.array_equal(kind.read(0), chunk(0))


def test_what_charflow_does_not_read_is_another_layout(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [
        {"compressors": []},
        {"compressors": [GzipCodec(), Crc32cCodec()]},
        {"compressors": [Crc32cCodec()], "serializer": BytesCodec(endian="big")},
        {"compressors": [Crc32cCodec(), BloscCodec(typesize=8)]},
    ]
    for k, kind in enumerate(kinds):
        zarr.create_group(tmp_path / str(k), zarr_format=3).create_array(
            "y", shape=(4, 3), chunks=(4, 3), dtype="int64", **kind
        )
        with pytest.raises(DamagedError, match="laid out otherwise than planned"):
            ChunkedArray(tmp_path / str(k), "y", chunk_shape=(4, 3), dtype="int64")


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
