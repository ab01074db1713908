"""Archives of one's own: read as they are, or refused in one line that says why."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.datasets.npz import Npz
from storage.errors import InputError
from tests.storage.datasets.files import check_ranges

X = np.arange(24.0).reshape(6, 4)


def saved(folder: Path, *, is_compressed: bool = False, **arrays: Any) -> Path:
    path = folder / "data.npz"
    (np.savez_compressed if is_compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "uint8", "int64"])
def test_numbers_of_any_type_come_as_single_precision(dtype: str, tmp_path: Path) -> None:
    data = Npz(saved(tmp_path, x=X.astype(dtype)))
    x, label = data.read(2, 5)
    assert (data.rows, data.dim, data.has_labels) == (6, (4,), False)
    assert x.dtype == np.float32
    assert np.array_equal(x, X[2:5])
    assert label is None


def test_labels_and_other_arrays_may_be_there(tmp_path: Path) -> None:
    data = Npz(saved(tmp_path, x=X.reshape(6, 1, 2, 2), label=np.arange(6, dtype=np.uint8), other=X))
    x, label = data.read(0, 2)
    assert data.dim == (1, 2, 2)
    assert data.has_labels
    assert x.shape == (2, 1, 2, 2)
    assert label is not None
    assert label.tolist() == [0, 1]
    assert label.dtype == np.int64


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path .*nowhere\.npz' is no file"):
        Npz(tmp_path / "nowhere.npz")
    with pytest.raises(InputError, match="is no file"):
        Npz(tmp_path)


def test_an_archive_without_x_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"npz has no column x, image.*; set dataset\.column to one of: y, w"):
        Npz(saved(tmp_path, y=X, w=X))


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, x=X, other=2 * X, label=np.arange(6), coarse=np.arange(6) // 3)
    data = Npz(path, column="other", label_column="coarse")
    x, label = data.read(0, 6)
    assert np.array_equal(x, 2 * X)
    assert label is not None
    assert label.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match=r"dataset\.column 'pixels' is not in .*; it has: x, other, label, coarse"):
        Npz(path, column="pixels")
    with pytest.raises(InputError, match=r"dataset\.label_column 'fine' is not in"):
        Npz(path, label_column="fine")


def test_unsigned_bytes_with_the_shape_of_images_are_numbers_as_they_are(tmp_path: Path) -> None:
    x, _ = Npz(saved(tmp_path, x=np.full((2, 1, 3, 3), 200, np.uint8))).read(0, 2)
    assert (x == 200).all()


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_ranges_in_any_order_are_parts_of_the_whole(order: Any, is_compressed: bool, tmp_path: Path) -> None:
    x = np.asarray(np.random.default_rng(0).standard_normal((9, 3, 2)), order=order)
    data = Npz(saved(tmp_path, x=x, label=np.arange(9), is_compressed=is_compressed))
    assert np.array_equal(data.read(0, 9)[0], x.astype(np.float32))
    check_ranges(data, [(0, 2), (2, 9), (5, 6), (3, 3), (8, 9), (1, 4)])


@pytest.mark.parametrize("is_compressed", [False, True])
def test_reading_in_ranges_holds_one_range(is_compressed: bool, tmp_path: Path) -> None:
    import tracemalloc

    data = Npz(saved(tmp_path, x=np.zeros((4000, 2500), np.float32), is_compressed=is_compressed))
    tracemalloc.start()
    for _ in range(2):
        for start in range(0, 4000, 100):
            data.read(start, start + 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 100 * 2500 * 4  # a range is one megabyte, the array forty


@pytest.mark.parametrize("x", [X.ravel(), np.float64(3), X.astype(str), X.astype(complex), X > 3, X[:, :0]])
def test_an_x_that_is_no_rows_of_numbers_is_bad_input(x: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x must be numbers of shape \[rows, \*dim\], got"):
        Npz(saved(tmp_path, x=x))


@pytest.mark.parametrize("label", [np.arange(5), np.arange(12).reshape(6, 2), np.arange(6.0), np.array(["a"] * 6)])
def test_labels_that_are_not_one_integer_a_row_are_bad_input(label: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.npz: label must be 6 integers, one a row of the data, got"):
        Npz(saved(tmp_path, x=X, label=label))


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x must be numbers of shape .*, got object"):
        Npz(saved(tmp_path, x=np.array([[{}, 1]], dtype=object)))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_truncated_archive_is_bad_input_wherever_it_ends(is_compressed: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, x=X, is_compressed=is_compressed)
    content = path.read_bytes()
    for length in range(0, len(content), 11):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cannot be read as an \.npz archive"):
            Npz(path)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_flipped_byte_gives_bad_input_or_the_same_numbers(is_compressed: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, x=X, is_compressed=is_compressed)
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), 5):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x44]) + content[at + 1 :])
        try:
            x, _ = Npz(path).read(0, 6)
        except InputError:
            refused += 1
        else:
            assert np.array_equal(x, X)
    assert refused > 10


def test_other_files_are_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.save(tmp_path / "data.npy", X)
    path.write_bytes((tmp_path / "data.npy").read_bytes())
    with pytest.raises(InputError, match="cannot be read"):
        Npz(path)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="cannot be read"):
        Npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "no array")
    with pytest.raises(InputError, match="cannot be read"):
        Npz(path)


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.npz: x is empty; it needs at least one row"):
        Npz(saved(tmp_path, x=X[:0]))


def test_an_array_longer_than_its_shape_tells_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, x=X)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content + bytes(8))
    with pytest.raises(InputError, match=r"x is longer than its shape \[6, 4\] tells"):
        Npz(path).read(0, 6)
