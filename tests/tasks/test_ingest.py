"""The ingest step: any kind of dataset becomes a store, and what is wrong with it leaves nothing behind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.chunks import Shard
from storage.data import DataStore
from storage.errors import InputError
from tasks.ingest import SyntheticDataset, ingest
from tasks.specs import DatasetSpec
from tests.storage.datasets.files import draw_pixels, encode, to_float, write_idx


def spec_of(kind: str, path: Path | None = None, **options: object) -> DatasetSpec:
    return replace(DatasetSpec(kind="moons", shards=3), kind=kind, path=str(path or ""), **options)  # type: ignore[arg-type]


def test_a_synthetic_target_is_drawn_by_row_whatever_the_shards(tmp_path: Path) -> None:
    stores = []
    for shards in (1, 4):
        spec = DatasetSpec(kind="moons", count=50, shards=shards)
        summary = ingest(spec, seed=3, path=tmp_path / str(shards))
        assert (summary.rows, summary.dim, summary.classes) == (50, (2,), 0)
        stores.append(DataStore(tmp_path / str(shards)))
    assert stores[0].digest == stores[1].digest
    data = SyntheticDataset(DatasetSpec(kind="moons").target(), rows=50, seed=3)
    assert np.array_equal(data.read(10, 20)[0], data.read(0, 50)[0][10:20])
    assert (data.classes, data.where(4)) == ((), "moons: row 4")


def test_mnists_files_become_a_labelled_store(tmp_path: Path) -> None:
    images = draw_pixels(7, 4, 4)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([0, 2, 1, 0, 2, 1, 0], np.uint8))
    summary = ingest(spec_of("idx", tmp_path), seed=0, path=tmp_path / "data.zarr")
    assert (summary.rows, summary.dim, summary.shards, summary.classes) == (7, (1, 4, 4), 3, 3)
    store = DataStore(tmp_path / "data.zarr")
    assert store.classes == ("0", "1", "2")
    found = store.standardisation.to_data(store.read(Shard(0, 7)))
    np.testing.assert_allclose(found, to_float(images)[:, None], atol=1e-6)
    assert store.source["path"] == str(tmp_path)


def test_the_options_of_a_source_reach_its_reader(tmp_path: Path) -> None:
    pq.write_table(pa.table({"z": [[2.0], [4.0]], "target": [1, 0]}), tmp_path / "test-0.parquet")
    spec = spec_of("parquet", tmp_path, split="test", column="z", label_column="target", standardise=False)
    ingest(spec, seed=0, path=tmp_path / "data.zarr")
    store = DataStore(tmp_path / "data.zarr")
    assert store.read(Shard(0, 2)).tolist() == [[2.0], [4.0]]
    labels = store.labels(Shard(0, 2))
    assert labels is not None
    assert labels.tolist() == [1, 0]


def _not_finite(folder: Path) -> DatasetSpec:
    x = np.ones((9, 3))
    x[5, 1] = np.inf
    np.savez(folder / "a.npz", x=x)
    return spec_of("npz", folder / "a.npz")


def _too_large(folder: Path) -> DatasetSpec:
    np.savez(folder / "a.npz", x=np.array([[1.0], [1e300]]))
    return spec_of("npz", folder / "a.npz")


def _bad_label(folder: Path) -> DatasetSpec:
    np.savez(folder / "a.npz", x=np.ones((3, 2)), label=np.array([0, 1, -1]))
    return spec_of("npz", folder / "a.npz")


def _truncated_gzip(folder: Path) -> DatasetSpec:
    path = write_idx(folder / "train-images-idx3-ubyte.gz", draw_pixels(50, 4, 4))
    path.write_bytes(path.read_bytes()[:-100])
    return spec_of("idx", folder)


def _truncated_parquet(folder: Path) -> DatasetSpec:
    pq.write_table(pa.table({"x": [[1.0], [2.0]]}), folder / "a.parquet")
    (folder / "a.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-30])
    return spec_of("parquet", folder / "a.parquet")


def _other_size(folder: Path) -> DatasetSpec:
    for row in range(9):
        (folder / f"{row}.png").write_bytes(encode(draw_pixels(4, 4 + (row == 7))))
    return spec_of("images", folder)


def _unreadable(folder: Path) -> DatasetSpec:
    for row in range(9):
        (folder / f"{row}.png").write_bytes(encode(draw_pixels(4, 4)) if row != 7 else b"?")
    return spec_of("images", folder)


def _empty(folder: Path) -> DatasetSpec:
    return spec_of("images", folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_not_finite, r"a\.npz: row 5 has a value that is not finite"),
        (_too_large, r"a\.npz: row 1 has a value that is not finite in single precision"),
        (_bad_label, r"a\.npz: row 2 has label -1; labels must be classes from 0"),
        (_truncated_gzip, r"train-images-idx3-ubyte\.gz: row \d+ is truncated or damaged"),
        (_truncated_parquet, r"a\.parquet cannot be read as Parquet"),
        (_other_size, r"7\.png: row 7 is 5 x 4 L, .*0\.png: row 0 is 4 x 4 L"),
        (_unreadable, r"7\.png: row 7 cannot be read as an image"),
        (_empty, "has no images"),
    ],
)
def test_bad_data_are_one_line_with_file_and_row_and_leave_nothing(make, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "source").mkdir()
    spec = make(tmp_path / "source")
    with pytest.raises(InputError, match=message) as caught:
        ingest(spec, seed=0, path=tmp_path / "run" / "data.zarr")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dataset_of_150_megabytes_is_ingested_in_a_few_blocks_of_memory(tmp_path: Path) -> None:
    """In one shard, in a process of its own, as the system counts: beyond the imports less than half of the data."""
    import subprocess
    import sys

    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((15_000, 2500), np.float32))
    code = f"""
import resource
from pathlib import Path
from tasks.ingest import ingest
from tasks.specs import DatasetSpec
resident = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = DatasetSpec(kind="moons", count=10)
ingest(small, seed=0, path=Path({str(tmp_path / "small")!r}))
before = resident()
ingest(DatasetSpec(kind="npz", path={str(tmp_path / "a.npz")!r}, shards=1), seed=0, path=Path({str(tmp_path / "z")!r}))
print((resident() - before) / 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 75


def test_progress_counts_every_row_twice_and_never_goes_back(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    ingest(
        DatasetSpec(kind="moons", count=500, shards=4),
        seed=0,
        path=tmp_path / "data.zarr",
        progress=lambda done, total, *_: heard.append((done, total)),
    )
    assert heard == sorted(heard)
    assert len(heard) == len(set(heard)) >= 5
    assert heard[-1] == (1000, 1000)
