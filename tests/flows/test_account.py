"""What is left beside a run that failed: what happened, what is kept, and what the workers said."""

from pathlib import Path

import pytest

from flows.account import account
from storage.progress import Coverage
from tests.flows.test_runs import finish, open_moons


class BrokenError(Exception):
    pass


def fail(root: Path, error: BaseException) -> str:
    run = finish(open_moons(root), "ingest")
    with pytest.raises(type(error)), run.in_progress():
        raise error
    return (root / "moons" / "failure.md").read_text()


def test_a_failure_leaves_an_account_with_its_cause(tmp_path: Path) -> None:
    error = BrokenError("no room on the disk")
    error.add_note("worker on host b: last words")
    text = fail(tmp_path, error)
    assert text.startswith("# Run moons: failed\n\nBrokenError: no room on the disk\n")
    assert "- steps that are not done: fit_velocity, integrate, train_generator, evaluate" in text
    assert "## What the workers said\n\n    worker on host b: last words" in text
    assert "## Where it came from\n\n    Traceback" in text
    assert text.count("last words") == 1
    assert "charflow show moons" in text


def test_an_interruption_needs_no_cause_and_the_next_work_takes_the_account_away(tmp_path: Path) -> None:
    text = fail(tmp_path, KeyboardInterrupt())
    assert text.startswith("# Run moons: interrupted\n\nasked to stop\n")
    assert "Traceback" not in text
    finish(open_moons(tmp_path))
    assert not (tmp_path / "moons" / "failure.md").exists()


def test_what_is_committed_is_told(tmp_path: Path) -> None:
    record = finish(open_moons(tmp_path), "ingest").record
    text = account(record, left=["integrate"], words="lost", coverage=Coverage(committed=1200, chunks=30000))
    assert "- trajectories: 1,200 of 30,000 chunks are committed, and kept" in text
