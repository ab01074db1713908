"""The ledger: plan once, record once, seal what is whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.commits import Commit, Ledger
from storage.errors import (
    CommitConflictError,
    DamagedError,
    IncompleteError,
    PlanConflictError,
    StorageError,
    VersionError,
)
from tests.local import on_disk
from tests.storage.disk import disk

PLAN: dict[str, Any] = {"seed": 1, "times": [0.0, 0.1, 1.0], "solver": "euler"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "trajectories.ledger")
    made.establish(PLAN)
    return made


def commit_of(ledger: Ledger, chunk: int, *, content: str = "0") -> Commit:
    return Commit(
        chunk=chunk,
        start=4 * chunk,
        stop=4 * chunk + 4,
        files={f"x/c/{chunk}": content * 32},
        bytes=64,
        plan=ledger.establish(PLAN),
        attempt="one",
        seconds=0.5,
        host="here",
    )


def snapshot(ledger: Ledger) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in on_disk(ledger.folder).rglob("*") if path.is_file()}


def test_the_same_plan_again_is_found_under_the_same_fingerprint(ledger: Ledger) -> None:
    before = snapshot(ledger)
    assert ledger.establish(PLAN) == ledger.establish(dict(reversed(PLAN.items())))
    assert snapshot(ledger) == before
    assert ledger.plan() == {"version": 1, **PLAN}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 2}, "plans seed = 1, asked for 2"),
        ({"times": [0.0, 1.0]}, r"plans times = \[0.0, 0.1, 1.0\], asked for \[0.0, 1.0\]"),
        ({"codec": "lz4"}, "plans codec = None, asked for 'lz4'"),
    ],
)
def test_another_plan_is_refused_by_the_key_that_differs_and_changes_nothing(
    change: dict[str, Any], words: str, ledger: Ledger
) -> None:
    before = snapshot(ledger)
    with pytest.raises(PlanConflictError, match=words):
        ledger.establish(PLAN | change)
    assert snapshot(ledger) == before


def test_a_ledger_without_a_plan_says_which_step_makes_one(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="run the integrate step"):
        Ledger(tmp_path).plan()


def test_the_first_record_wins_and_an_equal_one_is_no_error(ledger: Ledger) -> None:
    first = commit_of(ledger, 3)
    assert ledger.publish(first)
    assert not ledger.publish(replace(first, attempt="two", seconds=9.0, host="there"))
    assert ledger.read(3) == first
    assert ledger.committed() == {3}
    assert ledger.is_committed(3)
    assert not ledger.is_committed(4)


@pytest.mark.parametrize("change", [{"files": {"x/c/3": "1" * 32}}, {"files": {}}, {"plan": "1" * 32}])
def test_a_record_of_other_bytes_or_another_plan_is_a_loud_error(change: dict[str, Any], ledger: Ledger) -> None:
    ledger.publish(commit_of(ledger, 3))
    before = snapshot(ledger)
    with pytest.raises(CommitConflictError, match="chunk 3 is recorded with other bytes"):
        ledger.publish(replace(commit_of(ledger, 3), **change))
    assert snapshot(ledger) == before


def test_missing_chunks_are_those_without_a_record_in_order(ledger: Ledger) -> None:
    assert ledger.missing(3) == [0, 1, 2]
    for chunk in (1, 3, 100_000_000):
        ledger.publish(commit_of(ledger, chunk))
    assert ledger.missing(5) == [0, 2, 4]
    assert ledger.missing(0) == []
    assert ledger.committed() == {1, 3, 100_000_000}


def test_a_record_that_is_not_there_is_incomplete(ledger: Ledger) -> None:
    with pytest.raises(IncompleteError, match="chunk 5 is not committed"):
        ledger.read(5)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"chunk": 1, "more": 2}', b'{"version": "x"}'])
def test_a_record_that_makes_no_sense_is_damaged(content: bytes, ledger: Ledger) -> None:
    ledger.publish(commit_of(ledger, 1))
    on_disk(ledger.folder / "commits" / "00000001.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"00000001\.json"):
        ledger.read(1)


def test_a_retracted_chunk_is_missing_and_can_be_recorded_with_other_bytes(ledger: Ledger) -> None:
    ledger.publish(commit_of(ledger, 0))
    ledger.retract(0)
    ledger.retract(0)
    assert ledger.missing(1) == [0]
    assert ledger.publish(commit_of(ledger, 0, content="1"))


def test_retracting_from_an_empty_ledger_is_no_error(ledger: Ledger) -> None:
    ledger.retract(0)
    assert ledger.missing(1) == [0]


def test_a_gap_cannot_be_sealed(ledger: Ledger) -> None:
    for chunk in (0, 2):
        ledger.publish(commit_of(ledger, chunk))
    with pytest.raises(IncompleteError, match="chunk 1 of 3 is not committed"):
        ledger.seal(rows=12, chunks=3)
    assert ledger.manifest() is None


def test_the_seal_names_rows_chunks_and_all_digests(ledger: Ledger) -> None:
    for chunk in (0, 1):
        ledger.publish(commit_of(ledger, chunk))
    first = ledger.seal(rows=7, chunks=2)
    assert ledger.manifest() == first
    assert (first.rows, first.chunks, first.plan) == (7, 2, ledger.establish(PLAN))
    assert ledger.seal(rows=7, chunks=2) == first
    ledger.retract(1)
    ledger.publish(commit_of(ledger, 1, content="1"))
    assert ledger.seal(rows=7, chunks=2).digest != first.digest


def test_a_seal_reads_the_records_that_the_last_one_did_not(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Ledger(ledger.folder)
    for chunk in range(3):
        ledger.publish(commit_of(ledger, chunk, content=str(chunk)))
    ledger.seal(rows=12, chunks=3)
    ledger.publish(commit_of(ledger, 3, content="3"))
    read: list[int] = []
    monkeypatch.setattr(ledger, "read", lambda chunk: read.append(chunk) or whole.read(chunk))  # type: ignore[func-returns-value]
    grown = ledger.seal(rows=16, chunks=4)
    assert read == [3]
    (ledger.folder / "digests.json").unlink()
    assert whole.seal(rows=16, chunks=4) == grown


def test_a_seal_that_says_nothing_new_writes_nothing(ledger: Ledger) -> None:
    for chunk in range(2):
        ledger.publish(commit_of(ledger, chunk))
    first = ledger.seal(rows=8, chunks=2)
    files = [ledger.folder / name for name in ("digests.json", "manifest.json")]
    before = [on_disk(file).stat().st_ino for file in files]
    assert ledger.seal(rows=8, chunks=2) == first
    assert [on_disk(file).stat().st_ino for file in files] == before
    files[0].unlink()
    assert ledger.seal(rows=8, chunks=2) == first
    assert files[0].exists()


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b"{", lambda b: b.replace(b"0000", b"0001", 1)])
def test_digests_that_the_manifest_does_not_vouch_for_are_ignored(spoil: Any, ledger: Ledger) -> None:
    for chunk in range(2):
        ledger.publish(commit_of(ledger, chunk))
    sealed = ledger.seal(rows=8, chunks=2)
    digests = ledger.folder / "digests.json"
    on_disk(digests).write_bytes(spoil(digests.read_bytes()))
    assert ledger.seal(rows=8, chunks=2) == sealed


def test_the_seal_grows_with_the_store(ledger: Ledger) -> None:
    for chunk in range(3):
        ledger.publish(commit_of(ledger, chunk))
        assert ledger.seal(rows=4 * chunk + 4, chunks=chunk + 1).rows == 4 * chunk + 4


def test_a_smaller_request_does_not_unseal_the_rest_as_long_as_it_is_there(ledger: Ledger) -> None:
    for chunk in range(3):
        ledger.publish(commit_of(ledger, chunk))
    large = ledger.seal(rows=12, chunks=3)
    assert ledger.seal(rows=4, chunks=1) == large
    ledger.retract(2)
    assert ledger.seal(rows=4, chunks=1).rows == 4


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"rows": 3}'])
def test_a_damaged_seal_is_refused_by_readers_and_replaced_with_a_warning(
    content: bytes, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.publish(commit_of(ledger, 0))
    ledger.seal(rows=4, chunks=1)
    on_disk(ledger.folder / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        ledger.manifest()
    sealed = ledger.seal(rows=4, chunks=1)
    assert "manifest.json" in caplog.text
    assert ledger.manifest() == sealed


@pytest.mark.parametrize("act", [Ledger.plan, lambda ledger: ledger.establish(PLAN)])
def test_a_plan_of_a_newer_version_is_refused_by_its_number(act: Any, ledger: Ledger) -> None:
    path = ledger.folder / "plan.json"
    on_disk(path).write_text(json.dumps({**PLAN, "version": 2}))
    with pytest.raises(VersionError, match="format 2, this charflow reads up to 1; upgrade"):
        act(ledger)


def test_temporary_files_of_dead_writers_are_no_records_and_are_swept(ledger: Ledger) -> None:
    commit = commit_of(ledger, 0)
    ledger.publish(commit)
    ledger.retract(0)
    for k in (1, 2):  # the sync of the temporary file and the link
        with disk(dies_at=k) as mortal:
            ledger.publish(commit)
        assert mortal.is_dead
    assert ledger.committed() == set()
    assert ledger.sweep() == 2
    assert [path.name for path in on_disk(ledger.folder).rglob("*") if path.is_file()] == ["plan.json"]


def test_every_error_of_the_ledger_is_a_storage_error() -> None:
    for kind in (CommitConflictError, DamagedError, IncompleteError, PlanConflictError, VersionError):
        assert issubclass(kind, StorageError)
