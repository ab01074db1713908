"""Samples that leave charflow can be read by others, and replace nothing but their like."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from storage.datasets.images import Images
from storage.errors import InputError
from storage.samples import SUFFIXES, check_sample_path, sample_file
from storage.trajectories import Floats, Labels
from tests.local import on_disk
from tests.storage.stores import filled, snapshot

FILES = [".npy", ".npz", ".zarr"]


def read(path: Path) -> Floats:
    match path.suffix:
        case ".npy":
            return np.asarray(np.load(path))
        case ".npz":
            with np.load(path) as archive:
                return np.asarray(archive["x"])
        case _:
            return np.asarray(zarr.open_group(path, mode="r")["x"])


def draw(*shape: int) -> Floats:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def write(
    path: Path,
    x: Floats,
    *,
    label: Labels | None = None,
    classes: tuple[str, ...] = ("cat", "dog", "a/b"),
    batch: int = 3,
) -> None:
    names = None if label is None else classes
    with sample_file(path, count=len(x), dim=x.shape[1:], classes=names) as put:
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            put(x[rows], None if label is None else label[rows])


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("dim", [(2,), (3, 4, 4)])
def test_samples_come_back_to_the_bit_and_replace_earlier_ones(
    dim: tuple[int, ...], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"samples{suffix}"
    monkeypatch.setattr("storage.samples._CHUNK_BYTES", 2 * 4 * np.prod(dim))  # of two samples
    for count in (7, 3):
        x = draw(count, *dim)
        write(path, x)
        found = read(path)
        assert (found.dtype, found.shape) == (x.dtype, x.shape)
        assert found.tobytes() == x.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_labels_lie_beside_the_samples_and_go_with_them(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"samples{suffix}"
    write(path, draw(5, 2), label=np.array([2, 0, 1, 1, 0]))
    found: Any = np.load(path) if suffix == ".npz" else zarr.open_group(path, mode="r")
    assert sorted(found) == ["label", "x"]
    assert found["label"][:].tolist() == [2, 0, 1, 1, 0]
    assert found["label"].dtype == np.int64
    write(path, draw(3, 2))
    assert "label" not in (np.load(path) if suffix == ".npz" else zarr.open_group(path, mode="r"))


def test_many_samples_are_cut_into_chunks_of_bounded_size(tmp_path: Path) -> None:
    with sample_file(tmp_path / "samples.zarr", count=20, dim=(2**18,)):
        pass
    assert zarr.open_array(tmp_path / "samples.zarr" / "x", mode="r").chunks == (16, 2**18)


@pytest.mark.parametrize("suffix", FILES)
def test_a_batch_is_held_and_not_the_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = draw(4096, 64)
    monkeypatch.setattr("storage.samples._CHUNK_BYTES", 3 * batch.nbytes // 2)
    tracemalloc.start()
    with sample_file(tmp_path / f"samples{suffix}", count=40 * len(batch), dim=(64,)) as put:
        for _ in range(40):
            put(batch, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * batch.nbytes
    assert read(tmp_path / f"samples{suffix}").tobytes() == 40 * batch.tobytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_become_files_that_the_dataset_of_images_reads(channels: int, tmp_path: Path) -> None:
    x = draw(5, channels, 4, 6)
    write(tmp_path / "flat", x)
    assert sorted(p.name for p in (tmp_path / "flat").glob("*.png")) == [f"{k:06}.png" for k in range(5)]
    found = Images(tmp_path / "flat")
    assert (found.rows, found.dim, found.has_labels) == (5, (channels, 4, 6), False)
    values, _ = found.read(0, 5)
    assert np.abs(values - x.clip(-1, 1)).max() <= 1 / 255 + 1e-6  # half a level of 2 / 255
    with Image.open(tmp_path / "flat" / "000000.png") as image:
        assert image.mode == ("L" if channels == 1 else "RGB")


def test_images_of_classes_lie_in_a_folder_each(tmp_path: Path) -> None:
    label = np.array([1, 0, 1, 2, 3])
    write(tmp_path / "classes", draw(5, 1, 4, 4), label=label)
    assert sorted(str(p.relative_to(tmp_path / "classes")) for p in (tmp_path / "classes").rglob("*.png")) == [
        "2/000003.png",  # its name is no folder's
        "3/000004.png",  # it has no name
        "cat/000001.png",
        "dog/000000.png",
        "dog/000002.png",
    ]
    assert Images(tmp_path / "classes").classes == ("2", "3", "cat", "dog")


def half(path: Path) -> None:
    with sample_file(path, count=9, dim=(1, 4, 4)) as put:
        put(draw(4, 1, 4, 4), None)
        raise ZeroDivisionError


@pytest.mark.parametrize("suffix", [*FILES, ""])
def test_what_fails_half_way_leaves_the_samples_before_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"samples{suffix}"
    write(path, draw(3, 1, 4, 4))
    before = snapshot(tmp_path)
    with pytest.raises(ZeroDivisionError):
        half(path)
    assert snapshot(tmp_path) == before


def test_a_store_of_trajectories_is_never_taken_for_samples(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=6)
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "file.zarr").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").touch()
    before = snapshot(tmp_path)
    for path in (store.path, tmp_path / "other.zarr", tmp_path / "file.zarr", tmp_path / "mine"):
        with pytest.raises(InputError, match="is there and holds no samples"):
            check_sample_path(on_disk(path))
        with pytest.raises(InputError, match="is there and holds no samples"):
            write(on_disk(path), draw(3, 1, 2, 2))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["samples.txt", "samples.npy.gz", "samples.jpg"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"--out must end in one of \.npy, \.npz, \.png, \.zarr, or name a folder for images, got"
    ):
        check_sample_path(tmp_path / name)


@pytest.mark.parametrize("dim", [(2,), (8, 8), (4, 8, 8)])
def test_a_folder_takes_images_only(dim: tuple[int, ...], tmp_path: Path) -> None:
    check_sample_path(tmp_path / "samples", dim=(3, 8, 8))
    with pytest.raises(InputError, match=r"is for images, and a sample has shape .* use \.npy, \.npz or \.zarr"):
        check_sample_path(tmp_path / "samples", dim=dim)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_a_folder_where_a_file_is_to_be_is_refused_before_the_work(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"samples{suffix}").mkdir()
    with pytest.raises(InputError, match=r"is a folder; name a file"):
        check_sample_path(tmp_path / f"samples{suffix}")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ""])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(suffix: str) -> None:
    with pytest.raises(InputError, match=r"^--out '/proc/samples.*' lies in /proc, which cannot be written: "):
        check_sample_path(Path(f"/proc/samples{suffix}"))


@pytest.mark.parametrize("suffix", [*SUFFIXES, ""])
def test_a_folder_that_is_not_there_is_refused_before_the_work(suffix: str, tmp_path: Path) -> None:
    check_sample_path(tmp_path / f"samples{suffix}")
    with pytest.raises(InputError, match=r"lies in no folder; make .*nowhere first"):
        check_sample_path(tmp_path / "nowhere" / f"samples{suffix}")
