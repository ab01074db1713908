"""Labels beside the trajectories: two files a chunk and one record, and nothing of them where there are no classes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.errors import CommitConflictError, DamagedError, IncompleteError, PlanConflictError
from storage.specs import TrajectoryPlan
from storage.trajectories import TrajectoryStore
from tests.local import on_disk
from tests.storage.stores import (
    CONDITIONAL,
    PLAN,
    chunk_file,
    chunk_files,
    filled,
    label_file,
    labels,
    record_file,
    snapshot,
    values,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    return filled(tmp_path, rows=10, plan=CONDITIONAL)


def whole(rows: int = 10) -> list[int]:
    return [int(label) for chunk in range(4) for label in labels(CONDITIONAL, chunk)][:rows]


def test_labels_come_back_chunk_by_chunk_as_far_as_the_rows_go(store: TrajectoryStore) -> None:
    again = TrajectoryStore.open(store.path)
    assert again.plan == CONDITIONAL
    parts = [again.read_labels(chunk) for chunk in range(3)]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert {part.dtype for part in parts} == {np.dtype(np.int64)}
    assert np.concatenate(parts).tolist() == whole()
    assert np.array_equal(again.read_chunk(1), values(CONDITIONAL, 1))


def test_any_zarr_reader_sees_x_and_label(store: TrajectoryStore) -> None:
    code = (
        "import sys, zarr\ng = zarr.open(sys.argv[1], mode='r')\n"
        "print(sorted(g.array_keys()), g['label'][:].tolist(), g['label'].dtype, g['x'].shape)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True)
    assert found.stdout == f"['label', 't', 'x'] {whole()} int64 (10, 4, 2)\n"
    label = zarr.open_array(store.path / "label", mode="r")
    assert label.chunks == (4,)
    assert label.metadata.dimension_names == ("row",)  # type: ignore[union-attr]
    described = dict(zarr.open_group(store.path, mode="r").attrs)["charflow"]
    assert isinstance(described, dict)
    assert (described["class_shares"], described["unlabelled_share"], described["guidance"]) == ([0.3, 0.7], 0.25, 2.0)


def test_a_chunk_that_is_not_there_has_no_label_that_means_something(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=12, plan=CONDITIONAL, chunks=(1,))
    assert zarr.open_array(store.path / "label", mode="r")[:].tolist() == [-2] * 4 + whole()[4:8] + [-2] * 4  # type: ignore[union-attr]
    with pytest.raises(IncompleteError, match="chunk 0"):
        store.read_labels(0)
    with pytest.raises(IndexError):
        store.read_labels(3)


def test_a_store_without_classes_has_no_word_of_them_anywhere(tmp_path: Path) -> None:
    """Its files are those that were written before there were labels, so older stores open and keep their plan."""
    store = filled(tmp_path, rows=10)
    found = json.loads((store.ledger.folder / "plan.json").read_text())
    assert list(found) == [
        "version",
        "dim",
        "times",
        "chunk_rows",
        "dtype",
        "codec",
        "interpolant",
        "grid",
        "solver",
        "seed",
        "sub_batch",
        "velocity",
    ]
    assert TrajectoryStore.open(store.path).plan == PLAN
    assert sorted(path.name for path in store.path.iterdir()) == ["t", "x", "zarr.json"]
    assert list(store.ledger.read(0).files) == ["x/c/0/0/0"]
    for name, (_, content) in snapshot(tmp_path).items():
        assert not any(word in content for word in (b"label", b"class", b"guidance")), name
    with pytest.raises(ValueError, match="holds no labels; its plan has no classes"):
        store.read_labels(0)


@pytest.mark.parametrize("change", [{"guidance": 2.0}, {"unlabelled_share": 0.1}])
def test_a_plan_without_classes_has_no_guidance_and_no_unlabelled_share(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a plan without classes has unlabelled_share 0 and guidance 1"):
        replace(PLAN, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidance": 1.0}, "plans guidance = 2.0, asked for 1.0"),
        ({"unlabelled_share": 0.0}, "plans unlabelled_share = 0.25, asked for 0.0"),
        ({"class_shares": (0.5, 0.5)}, r"plans class_shares = \[0.3, 0.7\], asked for \[0.5, 0.5\]"),
    ],
)
def test_other_shares_or_another_guidance_are_another_plan(
    change: dict[str, object], words: str, store: TrajectoryStore
) -> None:
    with pytest.raises(PlanConflictError, match=words):
        TrajectoryStore.create(store.path, replace(CONDITIONAL, **change), rows=10)  # type: ignore[arg-type]


def test_the_record_promises_both_files(store: TrajectoryStore) -> None:
    commit = store.ledger.read(1)
    assert set(commit.files) == {"x/c/1/0/0", "label/c/1"}
    assert commit.bytes == sum(path.stat().st_size for path in chunk_files(store, 1))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "needs labels, got none"),
        (np.zeros(3, np.int64), r"a chunk of label must be int64 \(4,\), got int64 \(3,\)"),
        (np.zeros((4, 1), np.int64), r"a chunk of label must be int64 \(4,\), got int64 \(4, 1\)"),
        (np.zeros(4, np.int32), r"a chunk of label must be int64 \(4,\), got int32 \(4,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_anything_is_written(
    label: np.ndarray | None, words: str, tmp_path: Path
) -> None:
    store = filled(tmp_path, rows=4, plan=CONDITIONAL, chunks=())
    with pytest.raises(ValueError, match=words):
        store.write_chunk(0, values(CONDITIONAL, 0), label=label)
    assert not any(path.exists() for path in chunk_files(store, 0))


def test_labels_where_the_plan_has_no_classes_are_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=4, chunks=())
    with pytest.raises(ValueError, match="has no classes, got labels"):
        store.write_chunk(0, values(PLAN, 0), label=labels(PLAN, 0))
    assert not chunk_file(store, 0).exists()


def test_other_labels_for_the_same_trajectories_are_a_loud_error(store: TrajectoryStore) -> None:
    before = snapshot(on_disk(store.path))
    with pytest.raises(CommitConflictError, match="chunk 0"):
        store.write_chunk(0, values(CONDITIONAL, 0), label=labels(CONDITIONAL, 0) + 1)
    assert snapshot(on_disk(store.path)) == before


def test_every_flipped_byte_of_the_labels_is_found_and_spares_the_trajectories(store: TrajectoryStore) -> None:
    path = label_file(store, 1)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        assert store.verify(rows=10).bad == (1,)
        with pytest.raises(DamagedError, match=r"chunk 1 .* is damaged; run charflow verify --repair"):
            store.read_labels(1)
    assert np.array_equal(store.read_chunk(1), values(CONDITIONAL, 1))


@pytest.mark.parametrize("which", [0, 1], ids=["x", "label"])
def test_a_lost_file_is_found_and_never_the_fill_value(which: int, store: TrajectoryStore) -> None:
    chunk_files(store, 1)[which].unlink()
    assert store.verify(rows=10).bad == (1,)
    with pytest.raises(DamagedError, match=r"chunk 1 .* has lost its bytes"):
        store.read_labels(1) if which else store.read_chunk(1)


def test_exchanged_labels_are_found(store: TrajectoryStore) -> None:
    one, two = label_file(store, 0), label_file(store, 1)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert store.verify(rows=10).bad == (0, 1)


@pytest.mark.parametrize("lost", ["x/c/1/0/0", "label/c/1"])
def test_a_record_that_promises_one_of_the_files_only_is_found(lost: str, store: TrajectoryStore) -> None:
    record = json.loads(record_file(store, 1).read_text())
    del record["files"][lost]
    record_file(store, 1).write_text(json.dumps(record))
    assert store.verify(rows=10).bad == (1,)


def test_a_retracted_chunk_loses_both_files_and_is_made_anew_to_the_same_bytes(store: TrajectoryStore) -> None:
    before = [path.read_bytes() for path in chunk_files(store, 1)]
    store.retract(1)
    assert store.verify(rows=10).missing == (1,)
    assert not any(path.exists() for path in chunk_files(store, 1))
    write(store, 1)
    assert [path.read_bytes() for path in chunk_files(store, 1)] == before


def test_growth_spans_both_arrays_and_touches_no_chunk(store: TrajectoryStore) -> None:
    kept = [path for chunk in range(3) for path in (*chunk_files(store, chunk), record_file(store, chunk))]
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in kept]
    grown = TrajectoryStore.create(store.path, CONDITIONAL, rows=15)
    assert grown.ledger.missing(4) == [3]
    write(grown, 3)
    assert grown.seal(rows=15).rows == 15
    assert zarr.open_array(store.path / "label", mode="r")[:].tolist() == whole(15)  # type: ignore[union-attr]
    assert np.concatenate([grown.read_labels(chunk) for chunk in range(4)]).tolist() == whole(15)
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in kept] == before


def test_the_seal_covers_the_labels(tmp_path: Path) -> None:
    seals = []
    for shift in (0, 1):
        store = TrajectoryStore.create(tmp_path / str(shift) / "trajectories.zarr", CONDITIONAL, rows=4)
        store.write_chunk(0, values(CONDITIONAL, 0), label=labels(CONDITIONAL, 0) + shift)
        seals.append(store.seal(rows=4).digest)
    assert seals[0] != seals[1]


def test_a_lost_description_of_the_labels_is_laid_out_again(store: TrajectoryStore) -> None:
    path = store.path / "label" / "zarr.json"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(IncompleteError, match="holds no array label"):
        TrajectoryStore.open(store.path)
    again = TrajectoryStore.create(store.path, CONDITIONAL, rows=10)
    assert path.read_bytes() == content
    assert again.read_labels(2).tolist() == whole()[8:]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [(1,), (1, 2, 2)])
def test_labels_do_not_depend_on_what_they_lie_beside(dim: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    plan: TrajectoryPlan = replace(CONDITIONAL, dim=dim, dtype=dtype, codec="zstd")
    store = filled(tmp_path, rows=6, plan=plan)
    assert (
        label_file(store, 1).read_bytes()
        == label_file(filled(tmp_path / "plain", rows=6, plan=CONDITIONAL), 1).read_bytes()
    )
    assert store.verify(rows=6).bad == ()
