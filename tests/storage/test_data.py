"""The dataset store: standardised, digested, whole or refused."""

import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import storage.data
from storage.chunks import Shard
from storage.data import DataStore, Labels, Standardisation, Values, ingest_dataset
from storage.errors import DamagedError, IncompleteError, InputError, VersionError
from tests.local import on_disk
from tests.storage.disk import deaths


@dataclass
class Arrays:
    """A dataset in memory that remembers which ranges were read."""

    x: Values
    label: Labels | None = None
    classes: tuple[str, ...] = ()
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

    def where(self, row: int) -> str:
        return f"dataset row {row}"


def draw(*shape: int, seed: int = 0) -> Values:
    return (5 + 3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def ingested(
    folder: Path,
    x: Values,
    *,
    label: Labels | None = None,
    classes: tuple[str, ...] = (),
    shards: int = 3,
    standardise: bool = True,
) -> DataStore:
    data = Arrays(x, label, classes)
    return ingest_dataset(folder / "data.zarr", data, source={"kind": "test"}, shards=shards, standardise=standardise)


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


def test_ingest_reads_blocks_in_order_and_each_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.data, "_BLOCK_BYTES", 16)  # two rows
    data = Arrays(draw(10, 2))
    store = ingest_dataset(tmp_path / "data.zarr", data, source={}, shards=4, standardise=True)
    survey = [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    shards = [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert data.ranges == [*survey, (0, 2), (2, 3), (3, 5), (5, 6), (6, 8), (8, 9), (9, 10)]
    assert [store.shards.chunk(k) for k in range(store.shards.count)] == [Shard(*shard) for shard in shards]


@pytest.mark.parametrize("shards", [1, 40])
def test_ingest_holds_one_block_at_a_time_however_large_a_shard_is(
    shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    class Endless(Arrays):
        def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
            return np.full((stop - start, 1000), start, np.float32), None

    block_bytes = 64 * 1000 * 4
    monkeypatch.setattr(storage.data, "_BLOCK_BYTES", block_bytes)
    data = Endless(np.broadcast_to(np.float32(0), (4000, 1000)))
    tracemalloc.start()
    ingest_dataset(tmp_path / "data.zarr", data, source={}, shards=shards, standardise=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # at most the block, its copies in double precision, the sums, and a megabyte of zeros that fill the last shard
    assert peak < 8 * block_bytes + 2 * 2**20  # the dataset has 62 blocks


def test_mapping_units_holds_one_array_and_little_more() -> None:
    import tracemalloc

    to = Standardisation(mean=np.zeros(1000), scale=np.ones(1000))
    x = np.ones((20_000, 1000), np.float32)
    tracemalloc.start()
    z = to.to_data(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(z, x)
    assert peak < 1.7 * x.nbytes  # double precision of all would be another 2


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


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        ([0, 1, -1, 2], (), "dataset row 2 has label -1; labels must be classes from 0 to 65535"),
        ([0, 65536, 1, 2], (), "dataset row 1 has label 65536; labels must be classes from 0 to 65535"),
        ([0, 1, 2, 3], ("cat", "dog", "ant"), "dataset row 3 has label 3; labels must be classes from 0 to 2"),
    ],
)
def test_a_label_that_is_no_class_is_refused_by_its_row(
    label: list[int], classes: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        ingested(tmp_path, draw(4, 2), label=np.array(label), classes=classes)
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
    assert len({ingested(tmp_path, x, shards=shards).digest for shards in (1, 3, 5)}) == 1


class CutError(Exception):
    """The ingest ends here."""


@pytest.mark.parametrize("is_again", [False, True])
@pytest.mark.parametrize("reads", [2, 3, 4])
def test_an_ingest_that_fails_while_writing_removes_what_it_wrote(reads: int, is_again: bool, tmp_path: Path) -> None:
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
    assert list(tmp_path.iterdir()) == []
    store = ingested(tmp_path, x)
    np.testing.assert_allclose(store.standardisation.to_data(everything(store)), x, atol=TOLERANCE)


def test_an_ingest_that_fails_before_it_writes_leaves_a_former_store_as_it_was(tmp_path: Path) -> None:
    former = ingested(tmp_path, draw(10, 2))
    with pytest.raises(InputError):
        ingested(tmp_path, np.full((10, 2), np.nan, np.float32))
    assert DataStore(former.path).digest == former.digest
    assert len(everything(former)) == 10


def test_a_death_at_any_call_leaves_nothing_that_looks_whole_and_the_next_ingest_mends_it(tmp_path: Path) -> None:
    x, label = draw(5, 2), np.arange(5)
    path = tmp_path / "data.zarr"
    seen = set()

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            try:
                assert DataStore(path).digest == ingested(tmp_path / "again", x, label=label).digest
                seen.add("whole")
            except IncompleteError as error:
                seen.add("missing" if "is missing" in str(error) else "half")
        return lambda: ingested(tmp_path, x, label=label, shards=2)

    assert deaths(act) > 10
    assert "half" in seen
    np.testing.assert_allclose(DataStore(path).standardisation.to_data(everything(DataStore(path))), x, atol=TOLERANCE)


def test_a_store_that_is_not_there_says_which_step_makes_it(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="run the ingest step first"):
        DataStore(tmp_path / "data.zarr")


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = ingested(tmp_path, draw(10, 2))
    path = store.path / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["version"] = 2
    on_disk(path).write_text(json.dumps(content))
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


def test_classes_are_named_by_their_numbers_or_by_the_source_and_counted(tmp_path: Path) -> None:
    label = np.array([2, 0, 2, 2])
    plain = ingested(tmp_path, draw(4, 2), label=label)
    assert plain.classes == ("0", "1", "2")
    assert plain.class_shares.tolist() == [0.25, 0, 0.75]
    named = ingested(tmp_path, draw(4, 2), label=label, classes=("ant", "bee", "cat", "dog"))
    assert named.classes == ("ant", "bee", "cat", "dog")
    assert named.class_shares.tolist() == [0.25, 0, 0.75, 0]
    assert named.class_shares.dtype == np.float64
    unlabelled = ingested(tmp_path, draw(4, 2))
    assert unlabelled.classes == ()
    assert unlabelled.class_shares.shape == (0,)


@given(rows=st.integers(1, 23), shards=st.integers(1, 9), data=st.data())
def test_a_view_of_any_range_has_the_bytes_that_reading_gives(rows: int, shards: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, rows))
    shard = Shard(start, data.draw(st.integers(start, rows + 2)))
    with TemporaryDirectory() as folder:
        store = ingested(Path(folder), draw(rows, 3), shards=shards)
        view = store.view(shard)
        assert view.tobytes() == store.read(shard).tobytes()
        assert view.shape == store.read(shard).shape
        assert view.dtype == np.float32


def test_a_view_inside_one_shard_maps_the_file_and_never_changes_it(tmp_path: Path) -> None:
    store = ingested(tmp_path, draw(10, 2), shards=2)
    content = (store.path / "x/c/1/0").read_bytes()
    view = store.view(Shard(6, 8))
    assert view.tobytes() == content[8:24]
    base: Any = view
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
    view[...] = 0
    assert (store.path / "x/c/1/0").read_bytes() == content
    assert store.view(Shard(6, 8)).tobytes() == content[8:24]


def test_a_view_holds_nothing_of_the_shard(tmp_path: Path) -> None:
    import tracemalloc

    store = ingested(tmp_path, draw(4000, 250), shards=1)
    tracemalloc.start()
    view = store.view(Shard(0, 4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert view.nbytes == 4_000_000
    assert peak < 2_500_000  # a piece of a megabyte or two, while the checksum is verified


READS: dict[str, Callable[[DataStore, Shard], Any]] = {"x": DataStore.read, "label": DataStore.labels}


def test_every_flipped_byte_a_cut_and_a_lost_file_are_noticed_by_a_first_view(tmp_path: Path) -> None:
    store = ingested(tmp_path, draw(4, 2), shards=2)
    file = store.path / "x/c/1/0"
    content = file.read_bytes()
    for at in range(len(content)):
        on_disk(file).write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(DamagedError, match=r"x/c/1/0 fails its checksum; ingest again"):
            store.view(Shard(1, 3))
    on_disk(file).write_bytes(content[:-1])
    with pytest.raises(DamagedError, match="must have 20 bytes, got 19"):
        store.view(Shard(1, 3))
    file.unlink()
    with pytest.raises(DamagedError, match="has lost shard 1 of x"):
        store.view(Shard(1, 3))
    assert len(store.view(Shard(0, 2))) == 2


@pytest.mark.parametrize("array", ["x", "label"])
def test_every_flipped_byte_and_a_lost_file_are_noticed_by_reading(array: str, tmp_path: Path) -> None:
    store = ingested(tmp_path, draw(4, 2), label=np.arange(4), shards=2)
    file = store.path / array / "c" / ("1/0" if array == "x" else "1")
    content = file.read_bytes()
    read = READS[array]
    for at in range(len(content)):
        on_disk(file).write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(DamagedError, match="rows 1 to 3"):
            read(store, Shard(1, 3))
    file.unlink()
    with pytest.raises(DamagedError, match=f"has lost shard 1 of {array}"):
        read(store, Shard(1, 3))
    assert len(read(store, Shard(0, 2))) == 2
