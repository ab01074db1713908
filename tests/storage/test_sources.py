"""The files of a dataset and their digest: whatever changes is noticed, what has not changed is not read again."""

import os
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import obstore
import obstore.store
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import sources
from storage.checksum import digest_file
from storage.errors import InputError
from storage.sources import idx_files, image_tree, is_address, other_split, parquet_files, source_digest, source_files
from storage.specs import SourceSpec

LONG_AGO = 1_000_000_000  # seconds since 1970


def put(path: Path, content: bytes, *, mtime: int = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))
    return path


def digest(path: Path | str, kind: str, cache: Path, *, split: str = "train") -> str:
    return source_digest(SourceSpec(kind=kind, path=str(path), split=split), cache=cache)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the names of the files that are read to the end."""
    names: list[str] = []
    real = digest_file

    def spy(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(sources, "digest_file", spy)
    return names


NAMES = ("a/1.png", "a/2.png", "b/1.png", "b/c/1.png")
TREES = st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=2), min_size=1)


@settings(max_examples=25)
@given(trees=st.lists(TREES, min_size=2, max_size=6))
def test_digests_are_equal_just_where_names_and_contents_are(
    trees: list[dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whether a file was added, lost, renamed, or changed in place with its size kept, with the digests kept."""
    folder, times = tmp_path_factory.mktemp("tree"), count(LONG_AGO)
    found = []
    for tree in trees:
        for path in folder.rglob("*.png"):
            path.unlink()
        for name in sorted(tree):
            put(folder / "data" / name, tree[name], mtime=next(times))
        for path in sorted((folder / "data").rglob("*"), reverse=True):
            if path.is_dir() and not list(path.iterdir()):
                path.rmdir()
        found.append([digest(folder / "data", "images", folder / "cache") for _ in range(2)])
    for first, second in found:
        assert first == second
    for one, (tree_one, digests_one) in enumerate(zip(trees, found, strict=True)):
        for tree_two, digests_two in zip(trees[:one], found[:one], strict=True):
            assert (digests_one == digests_two) == (tree_one == tree_two)


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, read: list[str]) -> None:
    data, cache = put(tmp_path / "a.npz", b"123"), tmp_path / "root" / ".sources"
    first = digest(data, "npz", cache)
    assert read == ["a.npz"]
    assert digest(data, "npz", cache) == first
    assert read == ["a.npz"]
    put(data, b"124", mtime=LONG_AGO + 1)
    assert digest(data, "npz", cache) != first
    assert read == ["a.npz"] * 2


def test_a_copy_with_the_old_time_and_size_is_noticed(tmp_path: Path) -> None:
    data, cache = put(tmp_path / "a.npz", b"123"), tmp_path / "cache"
    first = digest(data, "npz", cache)
    other = put(tmp_path / "b.npz", b"124")
    other.replace(data)
    assert data.stat().st_mtime == LONG_AGO
    assert digest(data, "npz", cache) != first


def test_a_file_as_young_as_the_clock_is_coarse_is_always_read(tmp_path: Path, read: list[str]) -> None:
    data, cache = tmp_path / "a.npz", tmp_path / "cache"
    data.write_bytes(b"123")
    assert digest(data, "npz", cache) == digest(data, "npz", cache)
    assert read == ["a.npz"] * 2
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"digest": 3}', b'{"digest": "abc"}', b"\xff\xfe"])
def test_a_kept_digest_that_makes_no_sense_is_made_anew(content: bytes, tmp_path: Path, read: list[str]) -> None:
    data, cache = put(tmp_path / "a.npz", b"123"), tmp_path / "cache"
    first = digest(data, "npz", cache)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(content)
    assert digest(data, "npz", cache) == first
    assert read == ["a.npz"] * 2
    assert entry.read_bytes() == whole


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = put(tmp_path / "a.npz", b"123")
    real = digest_file

    def spy(path: Path) -> str:
        found = real(path)
        put(data, b"1234")
        return found

    monkeypatch.setattr(sources, "digest_file", spy)
    with pytest.raises(InputError, match=r"a\.npz' changed while it was read; try again when it is complete"):
        digest(data, "npz", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    data = put(tmp_path / "a.npz", b"123")
    with pytest.raises(InputError, match=r"root .*a\.npz' must be a folder that can be written"):
        digest(data, "npz", data / ".sources")


def test_data_that_no_file_holds_have_no_digest(tmp_path: Path) -> None:
    assert digest("", "digits", tmp_path / "cache") == ""


def test_the_digest_is_of_the_files_that_the_split_names_and_of_no_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        put(tmp_path / place / "train-0.parquet", b"1")
        put(tmp_path / place / "test-0.parquet", b"2")
        put(tmp_path / place / "README.md", place.encode())
    here, there = (digest(tmp_path / place, "parquet", tmp_path / "cache") for place in ("here", "there"))
    assert here == there
    assert digest(tmp_path / "here", "parquet", tmp_path / "cache", split="test") != here


def test_labels_beside_images_belong_to_the_dataset(tmp_path: Path) -> None:
    images = put(tmp_path / "train-images-idx3-ubyte.gz", b"1")
    before = digest(tmp_path, "idx", tmp_path / "cache")
    labels = put(tmp_path / "train-labels-idx1-ubyte", b"2")
    assert digest(tmp_path, "idx", tmp_path / "cache") != before
    assert source_files(SourceSpec(kind="idx", path=str(tmp_path))) == (images, labels)
    assert idx_files(images, split="train") == (images, labels)


def test_a_zarr_dataset_is_every_file_below_it(tmp_path: Path) -> None:
    files = [put(tmp_path / "a.zarr" / name, b"1") for name in ("c/0", "zarr.json")]
    spec = SourceSpec(kind="zarr", path=str(tmp_path / "a.zarr"))
    assert source_files(spec) == tuple(files)
    assert source_files(SourceSpec(kind="zarr", path=str(files[0]))) == (files[0],)


def test_images_are_told_class_after_class(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/3.jpg"):
        put(tmp_path / name, b"")
    tree = image_tree(tmp_path)
    assert (tree.files, tree.classes, tree.sizes) == (("a/3.jpg", "b/10.png", "b/2.png"), ("a", "b"), (1, 2))


@pytest.mark.parametrize("kind", ["idx", "parquet", "images", "npz", "zarr"])
def test_a_missing_path_is_bad_input_and_writes_nothing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path .*nowhere' is (missing|no file)"):
        digest(tmp_path / "nowhere", kind, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_bad_input(tmp_path: Path) -> None:
    data = put(tmp_path / "a.npz", b"1")
    data.chmod(0)
    with pytest.raises(InputError, match=r"a\.npz cannot be read: Permission denied"):
        digest(data, "npz", tmp_path / "cache")


def test_a_dangling_link_is_bad_input_by_name(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a" / "1.png", b"1")
    (tmp_path / "data" / "a" / "2.png").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"a/2\.png cannot be read: No such file"):
        digest(tmp_path / "data", "images", tmp_path / "cache")


def test_only_what_has_a_scheme_is_an_address() -> None:
    assert is_address("s3://bucket/key")
    assert not is_address("/data/s3/key")
    assert not is_address("C:/data")


def test_objects_are_known_by_name_size_and_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = obstore.store.MemoryStore()
    monkeypatch.setattr(sources, "open_address", lambda address: store)
    with pytest.raises(InputError, match=r"dataset\.path 's3://b/a\.zarr' is missing; nothing lies there"):
        digest("s3://b/a.zarr", "zarr", tmp_path)
    seen = set()
    for name, content in (("zarr.json", b"{}"), ("c/0", b"1"), ("c/0", b"2"), ("c/1", b"2")):
        obstore.put(store, name, content)
        seen.add(digest("s3://b/a.zarr", "zarr", tmp_path))
    assert len(seen) == 4
    assert digest("s3://b/a.zarr", "zarr", tmp_path) in seen


def test_an_object_written_again_alike_is_the_same_unless_the_store_has_no_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        def __init__(self, tag: str | None, day: int) -> None:
            self._object = {"path": "x", "size": 1, "e_tag": tag, "last_modified": datetime(2024, 1, day, tzinfo=UTC)}

        def list(self) -> list[list[dict[str, object]]]:
            return [[self._object]]

    def listed(tag: str | None, day: int) -> str:
        monkeypatch.setattr(sources, "open_address", lambda address: Store(tag, day))
        return digest("s3://b/a.zarr", "zarr", tmp_path)

    assert listed("a", 1) == listed("a", 2) != listed("b", 1)
    assert listed(None, 1) == listed(None, 1) != listed(None, 2)


def test_a_file_address_is_listed(tmp_path: Path) -> None:
    put(tmp_path / "a.zarr" / "zarr.json", b"{}")
    first = digest(f"file://{tmp_path}/a.zarr", "zarr", tmp_path / "cache")
    assert digest(f"file://{tmp_path}/a.zarr", "zarr", tmp_path / "cache") == first
    put(tmp_path / "a.zarr" / "c" / "0", b"1")
    assert digest(f"file://{tmp_path}/a.zarr", "zarr", tmp_path / "cache") != first


def test_splits_are_told_where_the_one_asked_for_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its splits for dataset\.split: none"):
        parquet_files(tmp_path, split="train")


def test_the_other_split_of_a_folder_is_found_where_it_has_files(tmp_path: Path) -> None:
    train = put(tmp_path / "train-images-idx3-ubyte", b"")
    spec = SourceSpec(kind="idx", path=str(tmp_path), label_column="y")
    assert other_split(spec) is None
    put(tmp_path / "t10k-images-idx3-ubyte.gz", b"")
    put(tmp_path / "test-0.parquet", b"")
    found = other_split(spec)
    assert found == SourceSpec(kind="idx", path=str(tmp_path), split="test", label_column="y")
    assert found is not None
    assert other_split(found) == spec
    parquet = other_split(SourceSpec(kind="parquet", path=str(tmp_path)))
    assert parquet is not None
    assert parquet.split == "test"
    assert other_split(SourceSpec(kind="images", path=str(tmp_path))) is None
    assert other_split(SourceSpec(kind="idx", path=str(train))) is None  # a file's name tells nothing
