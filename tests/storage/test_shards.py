"""The file of a shard: what Zarr would write, written in parts, mapped and verified once."""

from pathlib import Path
from tempfile import TemporaryDirectory

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from storage.errors import DamagedError
from storage.shards import map_shard, write_shard

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


def write(path: Path, *parts: np.ndarray, value_bytes: int = X.nbytes) -> Path:
    with write_shard(path, value_bytes=value_bytes) as append:
        for part in parts:
            append(part)
    return path


@given(rows=st.integers(0, 6), cuts=st.lists(st.integers(0, 6)))
def test_any_parts_give_the_very_bytes_that_zarr_writes(rows: int, cuts: list[int]) -> None:
    cuts = sorted(min(cut, rows) for cut in cuts)
    with TemporaryDirectory() as folder:
        array = zarr.create_array(
            Path(folder) / "a",
            shape=(6, 3),
            chunks=(6, 3),
            dtype="float32",
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        array[:rows] = X[:rows]
        if rows == 0:
            array[...] = 0
        parts = [X[start:stop] for start, stop in zip([0, *cuts], [*cuts, rows], strict=True)]
        file = write(Path(folder) / "b" / "c" / "0", *parts)
        assert file.read_bytes() == (Path(folder) / "a/c/0/0").read_bytes()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", ">i8"])
def test_values_are_little_endian_whatever_they_were(dtype: str, tmp_path: Path) -> None:
    values = np.arange(4).astype(dtype)
    file = write(tmp_path / "a", values, value_bytes=values.nbytes)
    kind = np.float32 if "f4" in dtype else np.int64
    assert map_shard(file, shape=(4,), dtype=kind).tolist() == [0, 1, 2, 3]
    assert file.read_bytes()[:-4] == values.astype(dtype.replace(">", "<")).tobytes()


def test_more_values_than_fit_are_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="72 bytes do not fit into a shard of 71"):
        write(tmp_path / "a", X, value_bytes=71)


def test_a_failure_inside_leaves_a_file_that_is_refused(tmp_path: Path) -> None:
    def fail() -> None:
        with write_shard(tmp_path / "a", value_bytes=X.nbytes) as append:
            append(X)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(DamagedError, match="must have 76 bytes, got 72"):
        map_shard(tmp_path / "a", shape=(6, 3), dtype=np.float32)


def test_a_file_is_verified_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a", X)
    sums: list[int] = []
    real = google_crc32c.extend

    def extend(crc: int, piece: bytes) -> int:
        sums.append(len(piece))
        return int(real(crc, piece))

    monkeypatch.setattr(google_crc32c, "extend", extend)
    for _ in range(3):
        assert np.array_equal(map_shard(file, shape=(6, 3), dtype=np.float32), X)
    assert sums == [X.nbytes]
    write(tmp_path / "b", 2 * X).replace(file)
    assert np.array_equal(map_shard(file, shape=(6, 3), dtype=np.float32), 2 * X)
    assert sums == [X.nbytes] * 3  # one of them while writing


def test_a_damaged_file_is_refused_every_time(tmp_path: Path) -> None:
    file = write(tmp_path / "a", X)
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DamagedError, match="a fails its checksum; ingest again"):
            map_shard(file, shape=(6, 3), dtype=np.float32)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        map_shard(file, shape=(6, 3), dtype=np.float32)
