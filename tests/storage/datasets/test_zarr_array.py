"""Any Zarr array as a dataset, on disk or behind an address."""

from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import ObjectStore

from storage.datasets.zarr_array import WholeChunks, ZarrArray
from storage.errors import InputError
from tests.storage.datasets.files import check_ranges

X = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
LABELS = np.arange(9) % 4


def group_at(store: Any, *, zarr_format: Any = 3, **arrays: Any) -> Any:
    group = zarr.create_group(store, zarr_format=zarr_format)
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=(4, *values.shape[1:]))
    return store


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_group_gives_its_arrays_of_usual_names(zarr_format: int, tmp_path: Path) -> None:
    path = group_at(tmp_path / "a.zarr", zarr_format=zarr_format, x=X, label=LABELS)
    data = ZarrArray(str(path))
    assert (data.rows, data.dim, data.has_labels, data.classes) == (9, (2, 3), True, ())
    x, label = data.read(0, 9)
    assert np.array_equal(x, X)
    assert label is not None
    assert label.tolist() == LABELS.tolist()
    check_ranges(data, [(0, 2), (2, 9), (5, 6), (3, 3), (1, 7)])


def test_columns_are_chosen_by_name_and_missing_ones_listed(tmp_path: Path) -> None:
    path = str(group_at(tmp_path / "a.zarr", x=X, z=2 * X, label=LABELS, coarse=LABELS // 2))
    x, label = ZarrArray(path, column="z", label_column="coarse").read(0, 9)
    assert np.array_equal(x, 2 * X)
    assert label is not None
    assert label.tolist() == (LABELS // 2).tolist()
    with pytest.raises(InputError, match=r"dataset\.column 'w' is not in .*; it has: coarse, label, x, z"):
        ZarrArray(path, column="w")
    with pytest.raises(InputError, match=r"has no column x, .*; set dataset\.column to one of: w"):
        ZarrArray(str(group_at(tmp_path / "b.zarr", w=X)))


def test_a_single_array_has_no_labels_and_no_columns(tmp_path: Path) -> None:
    path = str(group_at(tmp_path / "a.zarr", x=X, label=LABELS) / "x")
    data = ZarrArray(path)
    x, label = data.read(0, 9)
    assert np.array_equal(x, X)
    assert label is None
    with pytest.raises(InputError, match=r"choose from a group, but .*/x is a single array"):
        ZarrArray(path, label_column="label")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64", ">f4", "float16"])
def test_numbers_of_any_type_come_as_they_are_in_single_precision(dtype: str, tmp_path: Path) -> None:
    values = np.arange(200, 212).reshape(2, 1, 2, 3).astype(dtype)
    x, _ = ZarrArray(str(group_at(tmp_path / "a.zarr", x=values))).read(0, 2)
    assert x.dtype == np.float32
    assert np.array_equal(x, values)


def test_an_address_is_read_like_a_folder(tmp_path: Path) -> None:
    group_at(tmp_path / "a.zarr", x=X, label=LABELS)
    x, label = ZarrArray(f"file://{tmp_path}/a.zarr").read(2, 7)
    assert np.array_equal(x, X[2:7])
    assert label is not None
    assert label.tolist() == LABELS[2:7].tolist()


def test_an_object_store_is_read_like_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    store = obstore.store.MemoryStore()
    group_at(ObjectStore(store), x=X, label=LABELS)
    monkeypatch.setattr("storage.datasets.zarr_array.open_address", lambda address: store)
    data = ZarrArray("memory:///a.zarr")
    assert np.array_equal(data.read(0, 9)[0], X)
    assert data.where(7) == "memory:///a.zarr: row 7"


@pytest.mark.parametrize("address", ["memory:///a.zarr", "file:///nowhere/a.zarr"])
def test_an_address_where_nothing_lies_is_bad_input(address: str) -> None:
    with pytest.raises(InputError, match=rf"dataset\.path '{address}' cannot be opened as a ") as caught:
        ZarrArray(address)
    assert "\n" not in str(caught.value)


def test_other_folders_files_and_addresses_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="cannot be opened as a Zarr array or group"):
            ZarrArray(str(path))
    with pytest.raises(InputError, match=r"cannot be opened as a store: .*gopher"):
        ZarrArray("gopher://somewhere/a.zarr")


@pytest.mark.parametrize("x", [np.zeros(3), np.zeros((3, 0)), np.zeros((3, 2), bool), np.zeros((3, 2), complex)])
def test_an_array_that_is_no_rows_of_numbers_is_bad_input(x: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_group(path).create_array("x", shape=x.shape, dtype=x.dtype, chunks=(1,) * x.ndim)
    with pytest.raises(InputError, match=r"x must be numbers of shape \[rows, \*dim\], got"):
        ZarrArray(str(path))


def test_no_rows_and_labels_that_do_not_match_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x is empty; it needs at least one row"):
        ZarrArray(str(group_at(tmp_path / "a.zarr", x=np.zeros((0, 2)))))
    for number, label in enumerate((np.arange(5), np.arange(9.0), np.zeros((9, 1), int))):
        path = group_at(tmp_path / f"{number}.zarr", x=X, label=label)
        with pytest.raises(InputError, match="label must be 9 integers, one a row of the data, got"):
            ZarrArray(str(path))


def test_a_damaged_chunk_is_bad_input_with_its_rows(tmp_path: Path) -> None:
    path = group_at(tmp_path / "a.zarr", x=X)
    chunk = path / "x" / "c" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    data = ZarrArray(str(path))
    assert len(data.read(0, 4)[0]) == 4
    with pytest.raises(InputError, match=r"a\.zarr: rows 3 to 6 cannot be read: "):
        data.read(3, 6)


class Counted:
    """An array that remembers which of its chunks were decoded."""

    def __init__(self, rows: int, size: int) -> None:
        self.shape, self.dtype, self.chunks = (rows, 1), np.dtype("float32"), (size, 1)
        self.decoded: list[int] = []

    def __getitem__(self, part: slice) -> Any:
        rows = np.arange(self.shape[0])[part]
        self.decoded += sorted(set((rows // self.chunks[0]).tolist()))
        return rows[:, None].astype(np.float32)


@given(rows=st.integers(1, 40), size=st.integers(1, 50), cuts=st.lists(st.integers(0, 40), max_size=12))
def test_ranges_in_order_decode_a_chunk_at_most_twice(rows: int, size: int, cuts: list[int]) -> None:
    array = Counted(rows, size)
    reader = WholeChunks(array)
    cuts = sorted(min(cut, rows) for cut in cuts)
    for start, stop in zip([0, *cuts], [*cuts, rows], strict=True):
        assert reader.read(start, stop).ravel().tolist() == list(range(start, stop))
    assert all(array.decoded.count(chunk) <= 2 for chunk in array.decoded)


def test_small_ranges_of_one_chunk_decode_it_once() -> None:
    array = Counted(100, 60)
    reader = WholeChunks(array)
    for start in range(0, 60, 10):
        reader.read(start, start + 10)
    assert array.decoded == [0]


def test_reading_in_ranges_holds_the_chunks_of_one_range(tmp_path: Path) -> None:
    import tracemalloc

    array = zarr.create_array(tmp_path / "a.zarr", shape=(4000, 2500), chunks=(50, 2500), dtype="float32")
    array[...] = 1
    data = ZarrArray(str(tmp_path / "a.zarr"))
    tracemalloc.start()
    for start in range(0, 4000, 100):
        data.read(start, start + 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 100 * 2500 * 4  # a range is one megabyte, the array forty
