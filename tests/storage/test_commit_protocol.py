"""The commit protocol under attempts that run twice, at once, or die at any of their calls; storage/DESIGN.md."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.errors import CommitConflictError, DamagedError, IncompleteError
from storage.specs import TrajectoryPlan
from storage.trajectories import Floats, Labels, TrajectoryStore
from tests.local import on_disk
from tests.storage.disk import deaths, disk, interrupted
from tests.storage.stores import (
    CONDITIONAL,
    PLAN,
    chunk_file,
    chunk_files,
    filled,
    labels,
    plan_of,
    record_file,
    snapshot,
    values,
    write,
)


def contents(store: TrajectoryStore) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(on_disk(store.path)).items()}


def spans(store: TrajectoryStore) -> dict[str, int]:
    """Give the number of rows that each array spans, as any Zarr reader sees it."""
    group = zarr.open_group(store.path, mode="r")
    return {name: int(array.shape[0]) for name, array in group.arrays() if name != "t"}


def test_a_second_attempt_with_the_same_values_succeeds_and_touches_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=4)
    before = snapshot(tmp_path)
    commit = store.write_chunk(0, values(PLAN, 0))
    assert snapshot(tmp_path) == before
    assert commit.files == store.ledger.read(0).files


def test_a_second_attempt_with_other_values_is_a_loud_error_and_the_committed_bytes_stay(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=4)
    before = snapshot(tmp_path)
    with pytest.raises(CommitConflictError, match="chunk 0"):
        store.write_chunk(0, values(PLAN, 1))
    assert snapshot(tmp_path) == before


def test_bytes_that_a_dead_attempt_left_are_replaced(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=4, chunks=())
    chunk_file(store, 0).parent.mkdir(parents=True)
    chunk_file(store, 0).write_bytes(b"half a chu")
    store.write_chunk(0, values(PLAN, 0))
    assert store.verify(rows=4).bad == ()
    assert np.array_equal(store.read_chunk(0), values(PLAN, 0))


@pytest.mark.parametrize("plan", [PLAN, CONDITIONAL], ids=["x", "label"])
def test_a_second_attempt_inside_any_call_of_the_first_commits_one_chunk(plan: TrajectoryPlan, tmp_path: Path) -> None:
    def attempt(k: int) -> bool:
        store = filled(tmp_path / str(k), rows=4, plan=plan, chunks=())
        rival = TrajectoryStore.open(store.path)
        with interrupted(k, lambda: write(rival, 0)) as calls:
            write(store, 0)
        assert store.verify(rows=4).bad == store.verify(rows=4).missing == ()
        assert store.sweep() == 0
        return len(calls) >= k

    assert sum(1 for _ in takewhile(attempt, count(1))) > 10


def test_two_processes_that_write_the_same_chunks_at_once_both_succeed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from storage.trajectories import TrajectoryStore;"
        "from tests.storage.stores import PLAN, values; sys.stdin.readline();"
        "s = TrajectoryStore.create(Path(sys.argv[1]), PLAN, rows=int(sys.argv[2]));"
        "[s.write_chunk(k, values(PLAN, k)) for k in range(8)]; s.seal(rows=int(sys.argv[2]))"
    )
    path = tmp_path / "trajectories.zarr"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), rows], stdin=subprocess.PIPE, text=True)
        for rows in ("30", "32")
    ]
    for writer in writers:
        writer.communicate("go\n")
    assert [writer.returncode for writer in writers] == [0, 0]
    store = TrajectoryStore.open(path)
    assert store.verify(rows=32).bad == store.verify(rows=32).missing == ()
    manifest = store.ledger.manifest()
    assert manifest is not None
    assert manifest.rows >= 30
    assert np.array_equal(store.read_rows(0, 30), np.concatenate([values(PLAN, k) for k in range(8)])[:30])


@pytest.mark.parametrize("plan", [PLAN, plan_of(codec="zstd"), CONDITIONAL], ids=["none", "zstd", "label"])
def test_a_death_at_any_call_of_a_write_leaves_a_chunk_that_a_second_attempt_makes_whole(
    plan: TrajectoryPlan, tmp_path: Path
) -> None:
    reference = [path.read_bytes() for path in chunk_files(filled(tmp_path / "reference", rows=8, plan=plan), 1)]
    committed = set()

    def check(k: int) -> None:
        store = TrajectoryStore.open(tmp_path / str(k) / "trajectories.zarr")
        assert store.verify(rows=8).bad == ()  # whatever has a record is whole
        committed.add(store.ledger.is_committed(1))
        if store.ledger.is_committed(1):
            assert [path.read_bytes() for path in chunk_files(store, 1)] == reference
            assert store.read_chunk(1).tobytes() == values(plan, 1).tobytes()
        else:
            with pytest.raises(IncompleteError):
                store.read_chunk(1)
        write(store, 1)
        assert [path.read_bytes() for path in chunk_files(store, 1)] == reference
        assert store.seal(rows=8).rows == 8
        store.sweep()
        assert list((tmp_path / str(k)).rglob("*.partial")) == []

    def act(k: int) -> Callable[[], object]:
        store = filled(tmp_path / str(k), rows=8, plan=plan, chunks=(0,))
        if k > 1:
            check(k - 1)
        return lambda: write(store, 1)

    assert deaths(act) > (10 if plan is not CONDITIONAL else 15)
    assert committed == {False, True}


def test_a_death_between_the_files_of_a_chunk_leaves_one_of_them_and_no_record(tmp_path: Path) -> None:
    lonely = 0

    def act(k: int) -> Callable[[], object]:
        nonlocal lonely
        store = filled(tmp_path / str(k), rows=4, plan=CONDITIONAL, chunks=())
        if k > 1:
            dead = TrajectoryStore.open(tmp_path / str(k - 1) / "trajectories.zarr")
            present = [path.exists() for path in chunk_files(dead, 0)]
            assert all(present) or not dead.ledger.is_committed(0)
            lonely += present == [False, True]
            if present == [False, True]:
                with pytest.raises(IncompleteError):
                    dead.read_labels(0)
        return lambda: write(store, 0)

    deaths(act)
    assert lonely > 3


@pytest.mark.parametrize("plan", [PLAN, CONDITIONAL], ids=["x", "label"])
def test_a_death_at_any_call_of_a_creation_leaves_what_a_second_attempt_completes(
    plan: TrajectoryPlan, tmp_path: Path
) -> None:
    reference = contents(filled(tmp_path / "reference", rows=8, plan=plan, chunks=()))
    opened: list[int] = []

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            path = tmp_path / str(k - 1) / "trajectories.zarr"
            with suppress(IncompleteError):  # but a store that opens has all that others read
                TrajectoryStore.open(path)
                opened.append(k)
                assert np.array_equal(zarr.open_array(path / "t", mode="r")[:], plan.times)
                assert zarr.open_group(path, mode="r").attrs["charflow"]
                assert ("label" in zarr.open_group(path, mode="r")) == plan.is_conditional
            store = TrajectoryStore.create(path, plan, rows=8)
            store.sweep()
            assert contents(store) == reference
        return lambda: TrajectoryStore.create(tmp_path / str(k) / "trajectories.zarr", plan, rows=8)

    assert deaths(act) > 20
    assert opened


@pytest.mark.parametrize("plan", [PLAN, CONDITIONAL], ids=["x", "label"])
def test_a_death_at_any_call_of_growth_seal_or_retraction_hides_and_loses_nothing(
    plan: TrajectoryPlan, tmp_path: Path
) -> None:
    def grow(store: TrajectoryStore) -> None:
        TrajectoryStore.create(store.path, plan, rows=12)
        write(store, 2)
        store.seal(rows=12)
        store.retract(0)

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            store = TrajectoryStore.open(tmp_path / str(k - 1) / "trajectories.zarr")
            manifest = store.ledger.manifest()
            assert manifest is not None
            assert manifest.rows in (8, 12)
            assert store.rows >= manifest.rows
            if plan.is_conditional:  # no row is seen without its label
                assert zarr.open_array(store.path / "label", mode="r").shape[0] >= store.rows
                assert np.array_equal(store.read_labels(1), labels(plan, 1))
            assert np.array_equal(store.read_rows(4, 8), values(plan, 1))
            assert store.verify(rows=manifest.rows).bad == ()
            again = TrajectoryStore.create(store.path, plan, rows=12)
            for chunk in again.ledger.missing(3):
                write(again, chunk)
            assert again.seal(rows=12).rows == 12
            assert np.array_equal(again.read_rows(0, 12), np.concatenate([values(plan, c) for c in range(3)]))
            assert spans(again) == dict.fromkeys(("x", "label") if plan.is_conditional else ("x",), 12)
        store = filled(tmp_path / str(k), rows=8, plan=plan)
        return lambda: grow(store)

    assert deaths(act) > 15


@pytest.mark.parametrize("plan", [PLAN, CONDITIONAL], ids=["x", "label"])
def test_a_record_is_published_after_its_bytes_and_all_their_folders_are_durable(
    plan: TrajectoryPlan, tmp_path: Path
) -> None:
    store = filled(tmp_path, rows=4, plan=plan, chunks=())
    with disk() as calls:
        write(store, 0)
    trace = calls.trace
    link = next(k for k, (name, _) in enumerate(trace) if name == "link")
    puts = [k for k, (name, _) in enumerate(trace) if name == "replace"]
    record = record_file(store, 0)
    files = chunk_files(store, 0)
    for put, file in zip(puts, reversed(files), strict=True):
        assert ("fsync", file.stat().st_ino) in trace[:put]  # never a name for bytes that are not on the disk
        folder = file.parent
        while folder != store.path.parent:
            assert ("fsync", folder.stat().st_ino) in trace[put:link], folder
            folder = folder.parent
    assert ("fsync", record.stat().st_ino) in trace[puts[-1] : link]
    assert ("fsync", record.parent.stat().st_ino) in trace[link:]


def test_a_disk_that_loses_what_it_was_given_is_found_before_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, rows=4, chunks=())
    replace_ = os.replace

    def lossy(source: Path, target: Path) -> None:
        content = Path(source).read_bytes()
        Path(source).write_bytes(content[:-1] + b"\0")
        replace_(source, target)

    monkeypatch.setattr(os, "replace", lossy)
    with pytest.raises(DamagedError, match="reads back other bytes"):
        store.write_chunk(0, values(PLAN, 0))
    assert store.ledger.missing(1) == [0]


def test_leftovers_of_dead_writers_do_no_harm(tmp_path: Path) -> None:
    store = filled(tmp_path, rows=8)
    for place in (chunk_file(store, 1), record_file(store, 1), store.path / "x" / "zarr.json", store.path / "x" / "c"):
        on_disk(place.parent / f".{place.name}.0123456789ab.partial").write_bytes(b"half")
        on_disk(place.parent / f"{place.name}.0123.partial").write_bytes(b"half")  # as other Zarr writers call them
    again = TrajectoryStore.create(store.path, PLAN, rows=10)
    assert again.ledger.missing(2) == []
    assert again.verify(rows=8).bad == ()
    again.write_chunk(2, values(PLAN, 2))
    again.seal(rows=10)
    assert np.array_equal(zarr.open_array(store.path / "x", mode="r")[8:], values(PLAN, 2)[:2])
    assert again.sweep() == 4


CHUNKS = st.integers(0, 3)


class StoreMachine(RuleBasedStateMachine):
    """Anything may happen in any order, and a store stays what a few sets say it is."""

    @initialize(plan=st.sampled_from([plan_of(), plan_of(codec="lz4"), CONDITIONAL]))
    def create(self, plan: TrajectoryPlan) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.plan = replace(plan, chunk_rows=2, dim=(1,))
        self.rows = 3
        self.store = filled(self.folder, rows=self.rows, plan=self.plan, chunks=())
        self.committed: set[int] = set()
        self.damaged: set[int] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(chunk=CHUNKS)
    def write(self, chunk: int) -> None:
        write(self.store, chunk)
        self.committed.add(chunk)

    @rule(chunk=CHUNKS, k=st.integers(1, 20))
    def die_writing(self, chunk: int, k: int) -> None:
        with disk(dies_at=k):
            write(self.store, chunk)
        if self.store.ledger.is_committed(chunk):  # either may be; a record must be true, which the invariant sees
            self.committed.add(chunk)
        assert self.store.ledger.is_committed(chunk) == (chunk in self.committed)

    @rule(chunk=CHUNKS)
    def disagree(self, chunk: int) -> None:
        if chunk in self.committed:
            with pytest.raises(CommitConflictError):
                self.store.write_chunk(chunk, values(self.plan, chunk) + np.float32(1), label=self.labels(chunk))

    @rule(more=st.integers(0, 3))
    def grow(self, more: int) -> None:
        self.rows = min(self.rows + more, 8)
        self.store = TrajectoryStore.create(self.store.path, self.plan, rows=self.rows)

    @rule(k=st.integers(1, 6))
    def die_growing(self, k: int) -> None:
        asked = min(self.rows + 1, 8)
        with disk(dies_at=k) as mortal:
            TrajectoryStore.create(self.store.path, self.plan, rows=asked)
        self.store = TrajectoryStore.open(self.store.path)
        assert self.store.rows in ((self.rows, asked) if mortal.is_dead else (asked,))
        self.rows = self.store.rows

    @precondition(lambda self: self.committed)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(sorted(self.committed)))
        path = data.draw(st.sampled_from(chunk_files(self.store, chunk)))
        if chunk not in self.damaged:
            content = bytearray(path.read_bytes())
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
            path.write_bytes(content)
            self.damaged.add(chunk)

    @rule()
    def repair(self) -> None:
        for chunk in self.store.verify(rows=8).bad:
            self.store.retract(chunk)
        self.committed -= self.damaged
        self.damaged.clear()

    @rule()
    def seal(self) -> None:
        needed = set(range(self.store.grid(self.rows).count))
        if needed <= self.committed:
            assert self.store.seal(rows=self.rows).rows == self.rows
        else:
            with pytest.raises(IncompleteError):
                self.store.seal(rows=self.rows)

    @invariant()
    def verify_tells_the_truth(self) -> None:
        found = self.store.verify(rows=8)
        assert set(found.bad) == self.damaged
        assert set(found.missing) == set(range(4)) - self.committed

    @invariant()
    def sound_chunks_read_to_the_bit_and_others_not_at_all(self) -> None:
        for chunk in range(self.store.grid(self.rows).count):
            if chunk not in self.committed:
                with pytest.raises(IncompleteError):
                    self.store.read_chunk(chunk)
            elif chunk in self.damaged:
                with pytest.raises(DamagedError):  # one of the two; each is read by itself
                    self.read(chunk)
            else:
                x, label = self.read(chunk)
                assert x.tobytes() == values(self.plan, chunk)[: len(x)].tobytes()
                if label is not None:
                    assert label.tolist() == labels(self.plan, chunk)[: len(x)].tolist()

    def labels(self, chunk: int) -> Labels | None:
        return labels(self.plan, chunk) if self.plan.is_conditional else None

    def read(self, chunk: int) -> tuple[Floats, Labels | None]:
        x = self.store.read_chunk(chunk)
        return x, self.store.read_labels(chunk) if self.plan.is_conditional else None


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=15, stateful_step_count=12)
