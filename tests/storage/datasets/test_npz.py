"""Archives of one's own: read as they are, or refused in one line that says why."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.datasets.npz import Npz
from storage.errors import InputError

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
    with pytest.raises(InputError, match=r"has no array x; it must hold x \[rows, \*dim\]"):
        Npz(saved(tmp_path, y=X))


@pytest.mark.parametrize("x", [X.ravel(), np.float64(3), X.astype(str), X.astype(complex), X > 3, X[:, :0]])
def test_an_x_that_is_no_rows_of_numbers_is_bad_input(x: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x must be numbers of shape \[rows, \*dim\], got"):
        Npz(saved(tmp_path, x=x))


@pytest.mark.parametrize("label", [np.arange(5), np.arange(12).reshape(6, 2), np.arange(6.0), np.array(["a"] * 6)])
def test_labels_that_are_not_one_integer_a_row_are_bad_input(label: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label must be 6 integers, one a row of x, got"):
        Npz(saved(tmp_path, x=X, label=label))


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
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
    with pytest.raises(InputError, match="x must be numbers"):
        Npz(path)
