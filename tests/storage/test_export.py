"""What leaves charflow can be read by others and replaces nothing but its like."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from storage.errors import InputError
from storage.export import SAMPLE_SUFFIXES, check_sample_path, write_report, write_samples
from storage.trajectories import Floats
from tests.local import on_disk
from tests.storage.stores import filled, snapshot


def read(path: Path) -> Floats:
    match path.suffix:
        case ".npy":
            return np.asarray(np.load(path))
        case ".npz":
            with np.load(path) as archive:
                assert archive.files == ["x"]
                return np.asarray(archive["x"])
        case _:
            return np.asarray(zarr.open_group(path, mode="r")["x"])


def draw(*shape: int, dtype: str = "float32") -> Floats:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".zarr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [(2,), (3, 4, 4)])
def test_samples_come_back_to_the_bit_and_replace_earlier_ones(
    dim: tuple[int, ...], dtype: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"samples{suffix}"
    for count in (7, 3):
        x = draw(count, *dim, dtype=dtype)
        write_samples(path, x)
        found = read(path)
        assert found.dtype == x.dtype
        assert found.tobytes() == x.tobytes()
        assert found.shape == x.shape
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_labels_lie_beside_the_samples_and_go_with_them(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"samples{suffix}"
    write_samples(path, draw(3, 2), label=np.array([2, 0, 1]))
    found: Any = np.load(path) if suffix == ".npz" else zarr.open_group(path, mode="r")
    assert sorted(found) == ["label", "x"]
    assert found["label"][:].tolist() == [2, 0, 1]
    assert found["label"].dtype == np.int64
    write_samples(on_disk(path), draw(3, 2))
    assert "label" not in (np.load(path) if suffix == ".npz" else zarr.open_group(path, mode="r"))


def test_many_samples_are_cut_into_chunks_of_bounded_size(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples.zarr", np.zeros((20, 2**18), np.float32))
    assert zarr.open_array(tmp_path / "samples.zarr" / "x", mode="r").chunks == (16, 2**18)


def test_a_store_of_trajectories_is_never_taken_for_samples(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=6)
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "file.zarr").touch()
    before = snapshot(tmp_path)
    for path in (store.path, tmp_path / "other.zarr", tmp_path / "file.zarr"):
        with pytest.raises(InputError, match="is there and holds no samples"):
            check_sample_path(on_disk(path))
        with pytest.raises(InputError, match="is there and holds no samples"):
            write_samples(on_disk(path), draw(3, 2))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["samples", "samples.txt", "samples.npy.gz"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out must end in one of \.npy, \.npz, \.png, \.zarr, got"):
        check_sample_path(tmp_path / name)


@pytest.mark.parametrize("suffix", SAMPLE_SUFFIXES)
def test_a_folder_that_is_not_there_is_refused_before_the_work(suffix: str, tmp_path: Path) -> None:
    check_sample_path(tmp_path / f"samples{suffix}")
    with pytest.raises(InputError, match=r"lies in no folder; make .*nowhere first"):
        check_sample_path(tmp_path / "nowhere" / f"samples{suffix}")


def test_a_picture_is_not_written_as_an_array(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"samples can be written as \.npy, \.npz or \.zarr"):
        write_samples(tmp_path / "samples.png", draw(3, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_written_whole_and_replaced(tmp_path: Path) -> None:
    for page in ("first", "<p>zweite Fassung: ä</p>"):
        path = write_report(tmp_path / "report", page=page, pictures={"pairs": b"png"}, metrics={"w2": 0.25})
        assert on_disk(path).read_text(encoding="utf-8") == page
    assert json.loads((path.parent / "metrics.json").read_text()) == {"w2": 0.25}
    assert (path.parent / "pairs.png").read_bytes() == b"png"
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.html", "metrics.json", "pairs.png"]


def test_a_metric_that_is_no_number_is_refused_before_the_page_is_replaced(tmp_path: Path) -> None:
    write_report(tmp_path, page="old", pictures={}, metrics={"w2": 0.25})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path, page="new", pictures={}, metrics={"w2": float("nan")})
    assert (tmp_path / "index.html").read_text() == "old"
