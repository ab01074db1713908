"""Every kind has a reader, and others are named."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from storage.datasets.resolve import open_dataset
from storage.errors import InputError
from storage.specs import SOURCE_KINDS, SourceSpec
from tests.storage.datasets.files import draw_pixels, encode, write_idx


def _npz(folder: Path) -> Path:
    np.savez(folder / "data.npz", z=np.ones((5, 3)), target=np.arange(5))
    return folder / "data.npz"


def _idx(folder: Path) -> Path:
    write_idx(folder / "t10k-images-idx3-ubyte.gz", draw_pixels(5, 2, 2))
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    return folder


def _parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"z": [[1.0, 2.0]] * 5, "target": range(5)}), folder / "test-0.parquet")
    return folder


def _images(folder: Path) -> Path:
    for row in range(5):
        (folder / str(row)).mkdir()
        (folder / str(row) / "0.png").write_bytes(encode(draw_pixels(3, 2)))
    return folder


def _zarr(folder: Path) -> Path:
    group = zarr.create_group(folder / "a.zarr")
    group.create_array("z", data=np.ones((5, 3)))
    group.create_array("target", data=np.arange(5))
    return folder / "a.zarr"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "digits": lambda folder: folder,
    "idx": _idx,
    "parquet": _parquet,
    "images": _images,
    "npz": _npz,
    "zarr": _zarr,
}


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_every_kind_opens_with_its_options_and_keeps_the_protocol(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    data = open_dataset(SourceSpec(kind=kind, path=str(path), split="test", column="z", label_column="target"))
    x, label = data.read(1, 4)
    assert x.shape == (3, *data.dim)
    assert x.dtype == np.float32
    assert data.has_labels
    assert label is not None
    assert label.dtype == np.int64
    assert data.rows == (1797 if kind == "digits" else 5)
    assert isinstance(data.classes, tuple)
    assert "row 2" in data.where(2)


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"dataset\.kind must be one of digits, idx, .*, got 'sounds'"):
        open_dataset(SourceSpec(kind="sounds"))


def test_a_kind_loads_no_other_kinds_library() -> None:
    code = "import sys, storage.datasets.resolve; print({'pyarrow', 'PIL', 'sklearn', 'obstore'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
