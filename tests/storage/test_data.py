"""The dataset store: standardised, digested, whole or refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from storage.chunks import Shard
from storage.data import DataStore, Labels, Standardisation, Values, ingest_dataset
from storage.errors import DamagedError, IncompleteError, InputError, VersionError


@dataclass
class Arrays:
    """A dataset in memory that remembers which ranges were read."""

    x: Values
    label: Labels | None = None
    ranges: list[tuple[int, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def dim(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    @property
    def has_labels(self) -> bool:
        return self.label is not None

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        self.ranges.append((start, stop))
        return self.x[start:stop], None if self.label is None else self.label[start:stop]


def draw(*shape: int, seed: int = 0) -> Values:
    return (5 + 3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def ingested(
    folder: Path, x: Values, *, label: Labels | None = None, shards: int = 3, standardise: bool = True
) -> DataStore:
    source = {"kind": "test"}
    return ingest_dataset(folder / "data.zarr", Arrays(x, label), source=source, shards=shards, standardise=standardise)


def everything(store: DataStore) -> Values:
    return store.read(Shard(0, store.rows))


# a float32 value of size 20 has a spacing of 2e-6; twice that, for the way there and the way back
TOLERANCE = 4e-6


@pytest.mark.parametrize("dim", [(3,), (1, 4, 4)])
def test_standardisation_is_inverted_to_rounding(dim: tuple[int, ...], tmp_path: Path) -> None:
    x = draw(50, *dim)
    store = ingested(tmp_path, x)
    back = store.standardisation.to_data(everything(store))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, atol=TOLERANCE, rtol=0)


def test_a_map_keeps_the_type_of_what_it_maps() -> None:
    to = Standardisation(mean=np.array([1.0]), scale=np.array([2.0]))
    for dtype in (np.float32, np.float64):
        z = to.to_standard(np.array([[5.0]], dtype))
        assert z.dtype == dtype
        assert z.tolist() == [[2.0]]
        assert to.to_data(z).tolist() == [[5.0]]


def test_vectors_are_scaled_coordinate_by_coordinate(tmp_path: Path) -> None:
    x = draw(200, 3) * np.array([1, 100, 0.01], np.float32)
    z = everything(ingested(tmp_path, x)).astype(np.float64)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-6)


def test_images_are_scaled_by_one_number_so_that_quiet_pixels_stay_quiet(tmp_path: Path) -> None:
    x = draw(200, 1, 2, 2) * np.array([[1, 3], [0.1, 2]], np.float32)
    store = ingested(tmp_path, x)
    assert len(set(store.standardisation.scale.ravel())) == 1
    z = everything(store).astype(np.float64)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(z.var(0).mean(), 1, atol=1e-6)
    np.testing.assert_allclose(z.std(0)[0, 1, 0] / z.std(0)[0, 0, 1], x.std(0)[0, 1, 0] / x.std(0)[0, 0, 1], rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 12345.678])
@pytest.mark.parametrize("rows", [1, 7, 1797])
def test_a_constant_coordinate_becomes_zero_and_comes_back(rows: int, value: float, tmp_path: Path) -> None:
    x = draw(rows, 2)
    x[:, 1] = value
    store = ingested(tmp_path, x)
    z = everything(store)
    assert not z[:, 1].any()
    assert store.standardisation.scale[1] == 1
    assert np.array_equal(store.standardisation.to_data(z)[:, 1], x[:, 1])


def test_a_large_mean_does_not_drown_the_spread(tmp_path: Path) -> None:
    x = np.float32(4096) + draw(300, 1) / np.float32(8)  # x^2 in single precision would lose the spread altogether
    store = ingested(tmp_path, x, shards=7)
    np.testing.assert_allclose(store.standardisation.scale, x.astype(np.float64).std(0), rtol=1e-9)
    np.testing.assert_allclose(store.standardisation.mean, x.astype(np.float64).mean(0), rtol=1e-12)


def test_without_standardisation_data_units_stay_and_the_spread_is_told(tmp_path: Path) -> None:
    x = draw(60, 2)
    store = ingested(tmp_path, x, standardise=False)
    assert everything(store).tobytes() == x.tobytes()
    np.testing.assert_allclose(store.std, np.sqrt(x.astype(np.float64).var(0).mean()), rtol=1e-9)
    assert ingested(tmp_path, x).std == 1.0


def test_ingest_reads_the_ranges_of_the_shards_only_twice_each_and_in_order(tmp_path: Path) -> None:
    data = Arrays(draw(10, 2))
    store = ingest_dataset(tmp_path / "data.zarr", data, source={}, shards=4, standardise=True)
    shards = [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert data.ranges == shards * 2
    assert [store.shards.chunk(k) for k in range(store.shards.count)] == [Shard(*shard) for shard in shards]


def test_ingest_holds_one_shard_at_a_time(tmp_path: Path) -> None:
    import tracemalloc

    class Endless(Arrays):
        def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
            return np.full((stop - start, 1000), start, np.float32), None

    data = Endless(np.broadcast_to(np.float32(0), (4000, 1000)))
    shard_bytes = 100 * 1000 * 8  # of 100 rows in float64
    tracemalloc.start()
    ingest_dataset(tmp_path / "data.zarr", data, source={}, shards=40, standardise=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * shard_bytes  # the dataset has 20


def test_labels_and_shape_are_kept(tmp_path: Path) -> None:
    label = np.arange(10) % 3
    store = ingested(tmp_path, draw(10, 1, 2, 2), label=label)
    assert (store.rows, store.dim, store.source) == (10, (1, 2, 2), {"kind": "test"})
    for shard in (Shard(0, 10), Shard(3, 7)):
        found = store.labels(shard)
        assert found is not None
        assert found.tolist() == label[shard.start : shard.stop].tolist()
    assert ingested(tmp_path, draw(10, 2)).labels(Shard(0, 10)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4, 9])
def test_a_value_that_is_not_finite_is_refused_by_its_row(row: int, value: float, tmp_path: Path) -> None:
    x = draw(10, 2)
    x[row:, 1] = value
    with pytest.raises(InputError, match=f"dataset row {row} has a value that is not finite"):
        ingested(tmp_path, x)
    assert not (tmp_path / "data.zarr").exists()


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset is empty"):
        ingested(tmp_path, draw(0, 2))


def test_the_digest_changes_with_whatever_the_store_says_about_the_data(tmp_path: Path) -> None:
    x, label = draw(12, 4), np.arange(12) % 2
    one_bit = x.copy()
    one_bit.view(np.uint32)[7, 2] ^= 1
    digests = [
        ingested(tmp_path, x, standardise=False).digest,
        ingested(tmp_path, one_bit, standardise=False).digest,
        ingested(tmp_path, x[::-1].copy(), standardise=False).digest,
        ingested(tmp_path, x.reshape(12, 2, 2), standardise=False).digest,
        ingested(tmp_path, x.reshape(24, 2), standardise=False).digest,
        ingested(tmp_path, x, label=label, standardise=False).digest,
        ingested(tmp_path, x, label=1 - label, standardise=False).digest,
        ingested(tmp_path, x).digest,
        ingested(tmp_path, 2 * x).digest,  # whose standardised values are the same
    ]
    assert len(set(digests)) == len(digests)


def test_the_digest_changes_with_nothing_else(tmp_path: Path) -> None:
    x, label = draw(12, 4), np.arange(12) % 2
    digests = {
        ingest_dataset(
            tmp_path / place / "data.zarr", Arrays(x, label), source={"path": place}, shards=shards, standardise=False
        ).digest
        for place in ("here", "there")
        for shards in (1, 3, 5)
    }
    assert len(digests) == 1
    assert ingested(tmp_path, x).digest == ingested(tmp_path, x).digest


class CutError(Exception):
    """The ingest ends here."""


@pytest.mark.parametrize("is_again", [False, True])
@pytest.mark.parametrize("reads", [4, 5, 6])
def test_a_half_ingested_store_is_refused_and_made_anew(reads: int, is_again: bool, tmp_path: Path) -> None:
    class Failing(Arrays):
        def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
            if len(self.ranges) == reads - 1:
                raise CutError
            return super().read(start, stop)

    path, x = tmp_path / "data.zarr", draw(10, 2)
    if is_again:
        ingested(tmp_path, x)
    with pytest.raises(CutError):
        ingest_dataset(path, Failing(x), source={}, shards=3, standardise=True)
    with pytest.raises(IncompleteError, match="half ingested; run the ingest step again"):
        DataStore(path)
    store = ingested(tmp_path, x)
    np.testing.assert_allclose(store.standardisation.to_data(everything(store)), x, atol=TOLERANCE)


def test_a_store_that_is_not_there_says_which_step_makes_it(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="run the ingest step first"):
        DataStore(tmp_path / "data.zarr")


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = ingested(tmp_path, draw(10, 2))
    path = store.path / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["version"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(VersionError, match="format 2"):
        DataStore(store.path)


def test_any_zarr_reader_opens_a_finished_store(tmp_path: Path) -> None:
    label = np.arange(10)
    store = ingested(tmp_path, draw(10, 2), label=label)
    group = zarr.open_group(store.path, mode="r")
    assert np.array_equal(np.asarray(group["x"]), everything(store))
    assert np.asarray(group["label"]).tolist() == label.tolist()
    assert group.attrs["mean"] == store.standardisation.mean.tolist()
    assert {"mean", "scale", "source", "digest"} <= set(group.attrs)


READS: dict[str, Callable[[DataStore, Shard], Any]] = {"x": DataStore.read, "label": DataStore.labels}


@pytest.mark.parametrize("array", ["x", "label"])
def test_every_flipped_byte_and_a_lost_file_are_noticed_by_reading(array: str, tmp_path: Path) -> None:
    store = ingested(tmp_path, draw(4, 2), label=np.arange(4), shards=2)
    file = store.path / array / "c" / ("1/0" if array == "x" else "1")
    content = file.read_bytes()
    read = READS[array]
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(DamagedError, match="rows 1 to 3"):
            read(store, Shard(1, 3))
    file.unlink()
    with pytest.raises(DamagedError, match=f"has lost shard 1 of {array}"):
        read(store, Shard(1, 3))
    assert len(read(store, Shard(0, 2))) == 2
