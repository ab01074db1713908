"""The journal: what was written can be read at once, and a resumed training continues it without a seam."""

from collections.abc import Callable
from pathlib import Path

from storage.journal import Journal, read_journal
from tests.storage.disk import deaths, disk


def write(path: Path, *steps: int, after: int) -> None:
    with Journal(path, step=after) as journal:
        for step in steps:
            journal.append({"step": step, "loss": 1 / step})


def steps(path: Path) -> list[float]:
    return [record["step"] for record in read_journal(path)]


def test_records_are_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    assert read_journal(path) == []
    with Journal(path, step=0) as journal:
        for step in (1, 2):
            journal.append({"step": step, "loss": 0.1 * step})
            assert read_journal(path)[-1] == {"step": step, "loss": 0.1 * step}
    assert steps(path) == [1, 2]


def test_a_resumed_training_drops_what_it_will_write_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, 1, 2, 3, 4, after=0)
    write(path, 3, 4, 5, after=2)
    assert steps(path) == [1, 2, 3, 4, 5]
    write(path, after=0)
    assert steps(path) == []


def test_a_line_that_is_being_written_is_left_out_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, 1, 2, after=0)
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for length in range(first, len(content)):
        path.write_bytes(content[:length])
        assert steps(path) == [1]
        write(path, 2, 3, after=1)
        assert steps(path) == [1, 2, 3]


def test_a_flush_is_durable(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", step=0) as journal, disk() as calls:
        journal.append({"step": 1, "loss": 1.0})
        journal.flush()
    assert calls.trace == [("fsync", (tmp_path / "journal").stat().st_ino)]


def test_values_that_are_no_number_survive(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", step=0) as journal:
        journal.append({"step": 1, "loss": float("inf")})
    assert read_journal(tmp_path / "journal") == [{"step": 1, "loss": float("inf")}]


def test_a_death_at_any_call_of_resuming_loses_no_earlier_record(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            assert steps(path)[:2] == [1, 2]
        write(path, 1, 2, 3, after=0)
        return lambda: write(path, 3, after=2)

    assert deaths(act) >= 3
