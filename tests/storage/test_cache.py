"""Datasets on an object store: what lies there, and the copies from which a node reads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from obstore.store import from_url
from zarr.storage import ObjectStore

from storage import cache
from storage.chunks import Shard
from storage.data import DataStore, Labels, Values, ingest_dataset
from storage.errors import DamagedError, IncompleteError, InputError
from storage.remote import RemoteError, RemotePath
from tests.storage.bucket import FAILED, Proxy, contents, deaths, faults, once_each, spoil
from tests.storage.stores import snapshot

ROWS = 50


class Numbers:
    """Rows that count up, in three classes; row 7 is as told."""

    rows, dim, classes, has_labels = ROWS, (3,), ("a", "b", "c"), True

    def __init__(self, seventh: float = 7.0) -> None:
        self._seventh = seventh

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        x = np.repeat(np.arange(start, stop, dtype=np.float32)[:, None], 3, axis=1)
        x[np.arange(start, stop) == 7] = self._seventh
        return x, np.arange(start, stop) % 3

    def where(self, row: int) -> str:
        return f"row {row}"


def ingest(path: RemotePath | Path, *, shards: int = 4, seventh: float = 7.0) -> DataStore:
    return ingest_dataset(path, Numbers(seventh), source={"kind": "test"}, shards=shards, standardise=True)


def asked(proxy: Proxy) -> list[str]:
    """Give the shards that were read."""
    return [line.split("data.zarr/")[1] for line in proxy.log if line.startswith("GET") and "/c/" in line]


def copies(store: DataStore) -> list[Path]:
    return sorted(path for path in store._node.folder.rglob("c/**/*") if path.is_file() and path.name[0] != ".")


def drop_copies(tmp_path: Path) -> None:
    for path in sorted((tmp_path / "cache").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def test_a_dataset_has_the_bytes_that_it_has_on_a_disk_and_any_reader_opens_it(
    folder: RemotePath, tmp_path: Path
) -> None:
    there, here = ingest(folder / "data.zarr"), ingest(tmp_path / "data.zarr")
    assert contents(folder / "data.zarr") == {k: v for k, (_, v) in snapshot(tmp_path / "data.zarr").items()}
    assert (there.digest, there.rows, there.classes, there.path) == (
        here.digest,
        ROWS,
        here.classes,
        folder / "data.zarr",
    )
    for rows in (Shard(0, 13), Shard(5, 31), Shard(39, ROWS)):
        assert np.array_equal(there.view(rows), here.view(rows))
        assert np.array_equal(there.read(rows), here.read(rows))
        assert np.array_equal(there.labels(rows), here.labels(rows))  # type: ignore[arg-type]
    store = from_url(f"{folder}/data.zarr", client_options={"allow_http": True})
    group = zarr.open_group(ObjectStore(store, read_only=True), mode="r")
    assert np.array_equal(np.asarray(group["x"]), here.read(Shard(0, ROWS)))


def test_a_node_fetches_each_shard_once_and_only_what_it_reads(
    folder: RemotePath, proxy: Proxy, tmp_path: Path
) -> None:
    ingest(folder / "data.zarr")
    proxy.log.clear()
    assert DataStore(folder / "data.zarr").view(Shard(0, 13)).shape == (13, 3)
    assert asked(proxy) == []  # the node that made it has it
    drop_copies(tmp_path)
    for _ in range(2):
        store = DataStore(folder / "data.zarr")
        store.view(Shard(0, 20))
        store.labels(Shard(14, 15))
    assert asked(proxy) == ["x/c/0/0", "x/c/1/0", "label/c/1"]
    assert [path.relative_to(store._node.folder).as_posix() for path in copies(store)] == [
        "label/c/1",
        "x/c/0/0",
        "x/c/1/0",
    ]


@pytest.mark.parametrize("change", [{"shards": 5}, {"seventh": 8.0}], ids=["shards", "values"])
def test_another_dataset_in_the_same_place_has_other_copies(change: dict[str, float], folder: RemotePath) -> None:
    first = ingest(folder / "data.zarr")
    before = first.read(Shard(0, ROWS))
    second = ingest(folder / "data.zarr", **change)  # type: ignore[arg-type]
    assert second._node.folder != first._node.folder
    assert np.array_equal(second.read(Shard(0, ROWS)), before) == (second.digest == first.digest)
    assert len([name for name in contents(folder / "data.zarr") if name.startswith("x/c/")]) == second.shards.count


def test_a_damaged_copy_is_fetched_anew(folder: RemotePath, proxy: Proxy) -> None:
    store = ingest(folder / "data.zarr")
    whole, labels = store.read(Shard(0, ROWS)), store.labels(Shard(0, ROWS))
    for path in copies(store):
        content = path.read_bytes()
        path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    proxy.log.clear()
    again = DataStore(folder / "data.zarr")
    assert np.array_equal(again.view(Shard(0, 13)), whole[:13])
    assert np.array_equal(again.read(Shard(0, ROWS)), whole)
    assert np.array_equal(again.labels(Shard(0, ROWS)), labels)  # type: ignore[arg-type]
    assert set(asked(proxy)) == {name for name in contents(folder / "data.zarr") if "/c/" in name}


@pytest.mark.parametrize("read", [DataStore.view, DataStore.read, DataStore.labels])
def test_damage_on_the_store_is_never_read(
    read: Callable[[DataStore, Shard], object], folder: RemotePath, tmp_path: Path
) -> None:
    ingest(folder / "data.zarr")
    name = "label/c/1" if read is DataStore.labels else "x/c/1/0"
    spoil(folder / "data.zarr" / name)
    drop_copies(tmp_path)
    store = DataStore(folder / "data.zarr")
    read(store, Shard(0, 13))
    with pytest.raises(DamagedError, match="ingest again"):
        read(store, Shard(13, 26))
    (folder / "data.zarr" / name).unlink()
    drop_copies(tmp_path)
    with pytest.raises(DamagedError, match="has lost shard 1 of"):
        read(DataStore(folder / "data.zarr"), Shard(13, 26))


def test_a_death_before_any_request_of_ingest_leaves_none_or_a_whole_one(memory: RemotePath, tmp_path: Path) -> None:
    """It replaces another dataset, of more shards, that lies there."""
    new = ingest(memory / "reference" / "data.zarr")
    reference = contents(memory / "reference" / "data.zarr")
    values: dict[str, bytes] = {}
    seen: set[str] = set()

    def act(k: int) -> Callable[[], object]:
        path = memory / str(k - 1) / "data.zarr"
        if k > 1:
            drop_copies(tmp_path)
            try:
                found = DataStore(path)
                assert found.read(Shard(0, ROWS)).tobytes() == values[found.digest]
                seen.add(found.digest)
            except IncompleteError:
                seen.add("")
            ingest(path)
            assert contents(path) == reference
        old = ingest(memory / str(k) / "data.zarr", shards=7, seventh=8.0)
        for store in (old, new):
            values.setdefault(store.digest, store.read(Shard(0, ROWS)).tobytes())
        return lambda: ingest(memory / str(k) / "data.zarr")

    assert deaths(act) > 12
    assert seen == {"", *values}
    made = list((tmp_path / "cache" / "charflow").iterdir())
    assert made
    assert not [path for path in made if path.name.startswith("new-")]


def test_ingest_and_reading_survive_requests_that_fail_once(folder: RemotePath, proxy: Proxy, tmp_path: Path) -> None:
    proxy.script = once_each(FAILED)
    ingest(folder / "data.zarr")
    drop_copies(tmp_path)
    assert DataStore(folder / "data.zarr").read(Shard(0, ROWS)).shape == (ROWS, 3)


def test_a_store_that_stays_away_leaves_no_half_of_a_copy(folder: RemotePath, proxy: Proxy, tmp_path: Path) -> None:
    ingest(folder / "data.zarr")
    drop_copies(tmp_path)
    store = DataStore(folder / "data.zarr")
    proxy.script = faults(then=FAILED)
    with pytest.raises(RemoteError, match=r"data\.zarr/x/c/0/0: cannot read it"):
        store.view(Shard(0, 13))
    assert copies(store) == []
    proxy.script = faults()
    assert store.view(Shard(0, 13)).shape == (13, 3)


def test_bad_data_are_refused_before_anything_is_put(folder: RemotePath, proxy: Proxy) -> None:
    with pytest.raises(InputError, match="row 7 has a value that is not finite"):
        ingest(folder / "data.zarr", seventh=float("nan"))
    assert proxy.log == []
    with pytest.raises(IncompleteError, match=f"{folder}/data.zarr is missing; run the ingest step first"):
        DataStore(folder / "data.zarr")


def test_a_full_disk_names_the_cache(folder: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(folder / "data.zarr")
    drop_copies(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\): make room .* XDG_CACHE_HOME"):
        DataStore(folder / "data.zarr")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    with cache.scratch() as folder:
        assert folder.parent == tmp_path / "here" / "charflow"
    assert not folder.exists()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with cache.scratch() as folder:
        assert folder.parent == tmp_path / "home" / ".cache" / "charflow"
