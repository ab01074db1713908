"""Locks: one holder at a time, gone with it, and under the name that others look for."""

import errno
import fcntl
import threading
from pathlib import Path

import pytest

from storage.locks import locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_one_holder_at_a_time(path: Path) -> None:
    with locked(path, patience=0) as is_held:
        assert is_held
        with pytest.raises(BlockingIOError, match=r"\.lock is locked by another process"), locked(path, patience=0):
            pass
    with locked(path, patience=0):
        pass


def test_who_is_patient_gets_it_when_the_other_is_done(path: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path, patience=0):
            held.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    threading.Timer(0.05, done.set).start()
    with locked(path, patience=60):
        assert done.is_set()
    other.join()


def test_a_file_that_was_deleted_while_one_waited_is_no_lock(path: Path) -> None:
    held, waiting = threading.Event(), threading.Event()

    def clear_away() -> None:
        with locked(path, patience=0):
            held.set()
            waiting.wait()
            path.unlink()

    other = threading.Thread(target=clear_away)
    other.start()
    held.wait()
    threading.Timer(0.1, waiting.set).start()
    with locked(path, patience=60):
        assert path.exists()
        with pytest.raises(BlockingIOError), locked(path, patience=0):  # a third finds it held
            pass
    other.join()


def test_a_file_system_without_locks_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(path, patience=0) as is_held:
        assert not is_held
