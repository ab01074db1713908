"""The trajectory store: what is committed is read back to the bit, what is not is never taken for data."""

import errno
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import DamagedError, IncompleteError, PlanConflictError, VersionError
from storage.specs import CODECS, TrajectoryPlan
from storage.trajectories import Floats, TrajectoryStore, row_bytes
from tests.local import on_disk
from tests.storage.stores import PLAN, chunk_file, filled, plan_of, record_file, snapshot, values


def noise(plan: TrajectoryPlan, seed: int = 0) -> Floats:
    shape = (plan.chunk_rows, len(plan.times), *plan.dim)
    return np.random.default_rng(seed).standard_normal(shape).astype(plan.dtype)


@pytest.mark.parametrize("dim", [(1,), (3,), (1, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("codec", CODECS)
def test_chunks_come_back_to_the_bit(codec: str, dtype: str, dim: tuple[int, ...], tmp_path: Path) -> None:
    plan = plan_of(codec=codec, dtype=dtype, dim=dim)
    store = TrajectoryStore.create(tmp_path / "trajectories.zarr", plan, rows=8)
    x = [noise(plan, seed) for seed in (0, 1)]
    for chunk in (1, 0):
        store.write_chunk(chunk, x[chunk])
    again = TrajectoryStore.open(store.path)
    assert again.plan == plan
    assert [again.read_chunk(chunk).tobytes() for chunk in (0, 1)] == [part.tobytes() for part in x]
    assert again.read_chunk(0).dtype == np.dtype(dtype)
    assert again.verify(rows=8).bad == ()


@pytest.mark.parametrize("codec", CODECS)
def test_values_that_compare_unequal_to_themselves_come_back_too(codec: str, tmp_path: Path) -> None:
    plan = plan_of(codec=codec)
    store = TrajectoryStore.create(tmp_path / "trajectories.zarr", plan, rows=4)
    for special in (np.nan, -0.0, np.inf, 1e-45):
        x = np.full(store.chunk_shape, special, np.float32)
        store.write_chunk(0, x)
        assert store.read_chunk(0).tobytes() == x.tobytes()
        store.retract(0)


def test_a_quick_look_finds_what_is_gone_or_cut_short_and_not_a_flipped_byte(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=20, chunks=range(5))
    gone, short, flipped, record = (chunk_file(store, k) for k in range(4))
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    content = bytearray(flipped.read_bytes())
    content[5] ^= 1
    flipped.write_bytes(content)
    record_file(store, 3).write_bytes(record_file(store, 3).read_bytes().replace(b'"start": 12', b'"start": 13'))
    assert record.exists()
    assert store.verify(rows=20, is_quick=True).bad == (0, 1, 3)
    assert store.verify(rows=20).bad == (0, 1, 2, 3)


@pytest.mark.parametrize("what", ["storage.arrays.write_atomic", "storage.commits.create_exclusive"])  # bytes, record
@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, OSError), (errno.EACCES, PermissionError)])
def test_a_disk_that_takes_no_more_names_the_chunk_and_keeps_the_others(
    number: int, kind: type[OSError], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, rows=8, chunks=(0,))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "the reason")

    monkeypatch.setattr(what, refuse)
    with pytest.raises(kind) as caught:
        store.write_chunk(1, values(store.plan, 1))
    monkeypatch.undo()
    assert caught.value.errno == number
    assert f"chunk 1 of {store.path} could not be written (the reason)" in str(caught.value)
    assert store.ledger.committed() == {0}
    store.write_chunk(1, values(store.plan, 1))
    assert store.verify(rows=8).bad == ()


def test_any_zarr_reader_opens_finished_stores(tmp_path: Path) -> None:
    stores = {codec: filled(tmp_path / codec, rows=6, plan=plan_of(codec=codec)) for codec in CODECS}
    code = (
        "import sys, numpy, zarr\n"
        "for path in sys.argv[1:]:\n"
        "    g = zarr.open(path, mode='r')\n"
        "    numpy.savez(path + '.npz', x=g['x'][:], t=g['t'][:])\n"
        "assert 'storage' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *[str(store.path) for store in stores.values()]], check=True)
    for store in stores.values():
        with np.load(f"{store.path}.npz") as found:
            assert np.array_equal(found["x"], np.concatenate([values(PLAN, 0), values(PLAN, 1)])[:6])
            assert found["t"].tolist() == list(PLAN.times)


def test_the_group_says_what_it_holds(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=6)
    group = zarr.open_group(store.path, mode="r")
    described = dict(group.attrs)["charflow"]
    assert isinstance(described, dict)
    assert described["version"] == 1
    assert (described["interpolant"], described["solver"], described["seed"]) == ("linear", "euler", 7)
    x = group["x"]
    assert isinstance(x, zarr.Array)
    assert x.metadata.dimension_names == ("row", "time", "axis_0")  # type: ignore[union-attr]
    assert x.chunks == store.chunk_shape


def test_the_same_chunk_has_the_same_bytes_in_every_store_and_place(tmp_path: Path) -> None:
    """Compression in several threads would not: blocks would be appended in the order in which they end."""
    for codec in CODECS:
        plan = plan_of(codec=codec, dim=(4096,), chunk_rows=16)  # a megabyte, which is many blocks of a compressor
        x, digests = noise(plan), set()
        for k in range(2):
            store = TrajectoryStore.create(tmp_path / f"{codec}-{k}" / "trajectories.zarr", plan, rows=64)
            digests |= {digest for chunk in (0, 3) for digest in store.write_chunk(chunk, x).files.values()}
        assert len(digests) == 1


def test_rows_are_read_across_chunks(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=10)
    whole = np.concatenate([values(PLAN, chunk) for chunk in range(3)])
    for start in range(10):
        for stop in range(start + 1, 11):
            assert np.array_equal(store.read_rows(start, stop), whole[start:stop])


def test_a_chunk_is_read_into_a_buffer(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=6)
    buffer = np.zeros((9, 4, 2), np.float32)
    x = store.read_chunk(1, out=buffer[3:7])
    assert x.base is buffer
    assert np.array_equal(x, values(PLAN, 1)[:2])
    assert np.array_equal(buffer[3:7], values(PLAN, 1))
    assert not buffer[:3].any()
    assert not buffer[7:].any()


def test_the_seal_over_fewer_rows_is_that_of_a_store_that_holds_no_more(tmp_path: Path) -> None:
    small, large = filled(tmp_path / "small", rows=9), filled(tmp_path / "large", rows=22)
    assert large.sealed(22) == large.ledger.manifest()
    assert large.sealed(9) == small.sealed(9) == small.ledger.manifest()
    (tmp_path / "large" / "trajectories.ledger" / "digests.json").unlink()
    assert large.sealed(9) == small.sealed(9)
    record_file(large, 2).unlink()
    assert large.sealed(8).chunks == 2
    with pytest.raises(IncompleteError, match="chunk 2 is not committed"):
        large.sealed(9)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 4, 2), "<f4"), ((4, 4, 2), "<f8"), ((4, 4, 2), ">f4"), ((4, 8), "<f4")]
)
def test_a_block_of_another_shape_or_type_is_refused(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    store = filled(tmp_path, rows=4, chunks=())
    with pytest.raises(ValueError, match=r"a chunk of x must be float32 \(4, 4, 2\)"):
        store.write_chunk(0, np.zeros(shape, dtype))
    assert not chunk_file(store, 0).exists()


def test_there_is_no_chunk_before_the_first(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=4, chunks=())
    with pytest.raises(ValueError, match="start"):
        store.write_chunk(-1, values(PLAN, 0))


def test_an_unknown_codec_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codec must be one of none, lz4, zstd, got 'rle'"):
        TrajectoryStore.create(tmp_path / "trajectories.zarr", plan_of(codec="rle"), rows=4)
    assert list(tmp_path.iterdir()) == []


def test_a_row_takes_its_values_bytes() -> None:
    assert row_bytes((3, 2, 2), times=5, dtype="float32") == 5 * 12 * 4
    assert row_bytes((7,), times=1, dtype="float64") == 56


def test_another_plan_in_the_same_place_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=6)
    before = snapshot(tmp_path)
    with pytest.raises(PlanConflictError, match="plans seed = 7, asked for 8"):
        TrajectoryStore.create(store.path, plan_of(seed=8), rows=60)
    assert snapshot(tmp_path) == before


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=6)
    plan = json.loads((store.ledger.folder / "plan.json").read_text())
    on_disk(store.ledger.folder / "plan.json").write_text(json.dumps(plan | {"version": 2}))
    with pytest.raises(VersionError, match="upgrade"):
        TrajectoryStore.open(store.path)


@pytest.mark.parametrize("change", [{"more": 1}, {"seed": None}])
def test_a_plan_that_is_none_of_trajectories_is_damaged(change: dict[str, object], tmp_path: Path) -> None:
    store = filled(tmp_path, rows=6)
    path = store.ledger.folder / "plan.json"
    plan = {key: value for key, value in (json.loads(path.read_text()) | change).items() if value is not None}
    on_disk(path).write_text(json.dumps(plan))
    with pytest.raises(DamagedError, match="no plan of trajectories"):
        TrajectoryStore.open(store.path)


def test_a_store_that_is_not_there_or_half_laid_out_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="integrate"):
        TrajectoryStore.open(tmp_path / "trajectories.zarr")
    store = filled(tmp_path, rows=4)
    (store.path / "x" / "zarr.json").unlink()
    with pytest.raises(IncompleteError, match="holds no array x"):
        TrajectoryStore.open(store.path)
    assert np.array_equal(TrajectoryStore.create(store.path, PLAN, rows=4).read_rows(0, 4), values(PLAN, 0))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rows", [4, 5, 8])
def test_growth_touches_no_committed_chunk_and_readers_see_the_larger_shape(
    rows: int, codec: str, tmp_path: Path
) -> None:
    plan = plan_of(codec=codec)
    store = filled(tmp_path, rows=rows, plan=plan)
    chunks = range(store.grid(rows).count)
    kept = [path for chunk in chunks for path in (chunk_file(store, chunk), record_file(store, chunk))]
    before = [(path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in kept]
    grown = TrajectoryStore.create(store.path, plan, rows=15)
    assert [(path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in kept] == before
    assert grown.ledger.missing(4) == list(range(len(chunks), 4))
    for chunk in grown.ledger.missing(4):
        grown.write_chunk(chunk, values(plan, chunk))
    assert grown.seal(rows=15).rows == 15
    x = zarr.open_array(store.path / "x", mode="r")
    assert x.shape == (15, 4, 2)
    # rows of the formerly last chunk that were out of sight are there, though nobody wrote them again
    assert np.array_equal(x[:], np.concatenate([values(plan, chunk) for chunk in range(4)])[:15])
    assert [(path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in kept] == before


def test_a_smaller_count_reads_the_first_rows_and_shrinks_nothing(tmp_path: Path) -> None:
    filled(tmp_path, rows=15)
    before = snapshot(tmp_path)
    store = TrajectoryStore.create(tmp_path / "trajectories.zarr", PLAN, rows=6)
    assert store.rows == 15
    assert store.ledger.missing(store.grid(6).count) == []
    assert np.array_equal(store.read_rows(0, 6), np.concatenate([values(PLAN, 0), values(PLAN, 1)])[:6])
    assert store.seal(rows=6).rows == 15
    assert {path: content for path, (_, content) in snapshot(tmp_path).items()} == {
        path: content for path, (_, content) in before.items()
    }


def test_a_process_that_grew_the_array_less_cannot_hide_rows_that_another_sealed(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=4)
    large = TrajectoryStore.create(store.path, PLAN, rows=12)
    metadata = store.path / "x" / "zarr.json"
    late = json.loads(metadata.read_text())
    late["shape"][0] = 8  # what a process writes that read the shape before the larger growth
    on_disk(metadata).write_text(json.dumps(late))
    for chunk in (1, 2):
        TrajectoryStore.open(store.path).write_chunk(chunk, values(PLAN, chunk))
    large.seal(rows=12)
    assert np.array_equal(TrajectoryStore.open(store.path).read_rows(8, 12), values(PLAN, 2))


@settings(max_examples=8)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 6))
def test_any_way_of_growing_gives_the_same_store(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], chunk_rows: int
) -> None:
    plan = plan_of(chunk_rows=chunk_rows)
    folder = tmp_path_factory.mktemp("grown")
    for rows in counts:
        store = TrajectoryStore.create(folder / "trajectories.zarr", plan, rows=rows)
        for chunk in store.ledger.missing(store.grid(rows).count):
            store.write_chunk(chunk, values(plan, chunk))
        store.seal(rows=rows)
    at_once = filled(tmp_path_factory.mktemp("at_once"), rows=max(counts), plan=plan)
    for path in on_disk(at_once.path).rglob("*"):
        if path.is_file():
            assert (on_disk(store.path) / path.relative_to(on_disk(at_once.path))).read_bytes() == path.read_bytes()
    assert store.ledger.manifest() == at_once.ledger.manifest()


def test_a_chunk_that_is_not_there_looks_like_no_data_to_any_reader(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=12, chunks=(1,))
    x = zarr.open_array(store.path / "x", mode="r")
    assert np.isnan(x[:4]).all()
    assert np.isnan(x[8:]).all()
    assert np.array_equal(x[4:8], values(PLAN, 1))


def test_bytes_without_a_record_are_not_read(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    record_file(store, 1).unlink()
    assert store.verify(rows=8).missing == (1,)
    assert store.verify(rows=8).bad == ()
    assert store.ledger.missing(2) == [1]
    with pytest.raises(IncompleteError, match="chunk 1"):
        store.read_chunk(1)
    with pytest.raises(IncompleteError, match="chunk 1"):
        store.seal(rows=8)


def test_a_record_without_bytes_is_damage_and_never_the_fill_value(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    chunk_file(store, 1).unlink()
    assert store.verify(rows=8).bad == (1,)
    with pytest.raises(DamagedError, match=r"chunk 1 .* has lost its bytes"):
        store.read_chunk(1)


def test_a_chunk_beyond_the_array_is_no_chunk(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    with pytest.raises(IndexError):
        store.read_chunk(2)


@pytest.fixture(params=CODECS)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> TrajectoryStore:
    plan = plan_of(codec=request.param, chunk_rows=2, dim=(1,))
    return filled(tmp_path, rows=4, plan=plan)


def damaged(store: TrajectoryStore, content: bytes) -> None:
    chunk_file(store, 1).write_bytes(content)
    assert store.verify(rows=4).bad == (1,)
    with pytest.raises(DamagedError, match=r"chunk 1 .* is damaged; run charflow verify --repair"):
        store.read_chunk(1)


def test_every_flipped_byte_is_found_by_verify_and_by_reading(small: TrajectoryStore) -> None:
    content = chunk_file(small, 1).read_bytes()
    for at in range(len(content)):
        for mask in (0x01, 0x80, 0xFF):
            damaged(small, content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
    chunk_file(small, 1).write_bytes(content)
    assert small.verify(rows=4).bad == ()


def test_every_truncation_and_extension_is_found_by_verify_and_by_reading(small: TrajectoryStore) -> None:
    content = chunk_file(small, 1).read_bytes()
    for length in range(len(content)):
        damaged(small, content[:length])
    damaged(small, content + b"\0")
    damaged(small, content + content)


def test_swapped_chunks_are_found(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=12)
    one, two = chunk_file(store, 0), chunk_file(store, 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert store.verify(rows=12).bad == (0, 2)


def test_swapped_records_are_found(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=12)
    one, two = record_file(store, 0), record_file(store, 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert store.verify(rows=12).bad == (0, 2)


@pytest.mark.parametrize(
    "change", [{"chunk": 0}, {"start": 0}, {"stop": 5}, {"bytes": 1}, {"plan": "0" * 32}, {"files": {}}, {"more": 1}]
)
def test_a_record_with_a_wrong_fact_is_found(change: dict[str, object], tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    record = json.loads(record_file(store, 1).read_text())
    record_file(store, 1).write_text(json.dumps(record | change))
    assert store.verify(rows=8).bad == (1,)


def test_a_flipped_byte_of_the_arrays_description_is_damage_or_changes_no_value(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    path, whole = store.path / "x" / "zarr.json", store.read_rows(0, 8)
    content = path.read_bytes()
    for at in range(0, len(content), 2):
        on_disk(path).write_bytes(content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :])
        with suppress(DamagedError):
            assert np.array_equal(TrajectoryStore.open(store.path).read_rows(0, 8), whole)
    path.unlink()
    assert np.array_equal(TrajectoryStore.create(store.path, PLAN, rows=8).read_rows(0, 8), whole)
    assert path.read_bytes() == content


@pytest.mark.parametrize("is_of_type", [False, True])
def test_an_array_of_another_layout_than_planned_is_damage(is_of_type: bool, tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    path = store.path / "x" / "zarr.json"
    content = json.loads(path.read_text())
    if is_of_type:
        content["data_type"] = "float64"
    else:
        content["chunk_grid"]["configuration"]["chunk_shape"][0] = 2
    on_disk(path).write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="laid out otherwise than planned"):
        TrajectoryStore.open(store.path)


def test_verify_looks_at_the_rows_asked_for_only(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=12)
    chunk_file(store, 2).write_bytes(b"")
    record_file(store, 1).unlink()
    found = store.verify(rows=4)
    assert (found.chunks, found.bad, found.missing) == (1, (), ())
    found = store.verify(rows=9)
    assert (found.chunks, found.bad, found.missing) == (3, (2,), (1,))


def test_a_retracted_chunk_is_made_anew_to_the_same_bytes(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    whole = chunk_file(store, 1).read_bytes()
    chunk_file(store, 1).write_bytes(b"rubbish")
    store.retract(1)
    assert store.verify(rows=8).missing == (1,)
    assert not chunk_file(store, 1).exists()
    store.write_chunk(1, values(PLAN, 1))
    assert chunk_file(store, 1).read_bytes() == whole
    assert store.verify(rows=8).bad == store.verify(rows=8).missing == ()


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    filled(tmp_path / "here", rows=6)
    shutil.move(tmp_path / "here", tmp_path / "there")
    store = TrajectoryStore.open(tmp_path / "there" / "trajectories.zarr")
    assert store.verify(rows=6).bad == ()
    assert np.array_equal(store.read_rows(4, 6), values(PLAN, 1)[:2])


def test_the_record_tells_who_wrote_what(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8, chunks=())
    commit = store.write_chunk(1, values(PLAN, 1), started=0.0)
    assert (commit.chunk, commit.start, commit.stop) == (1, 4, 8)
    assert commit.bytes == chunk_file(store, 1).stat().st_size
    assert commit.seconds > 0
    assert store.ledger.read(1) == replace(commit)
