"""Locks: one holder at a time, gone with it, and under the name that others look for."""

import errno
import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def held_by_another(
    path: Path, *, seconds: float, then: Callable[[], None] = lambda: None
) -> Iterator[threading.Event]:
    """Let a thread hold the lock for a while, and do something at the end; gives whether it is done."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path, patience=0):
            held.set()
            done.wait()
            then()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    threading.Timer(seconds, done.set).start()
    yield done
    other.join()


def test_who_is_patient_gets_it_when_the_other_is_done(path: Path) -> None:
    with held_by_another(path, seconds=0.05) as done, locked(path, patience=60):
        assert done.is_set()


def test_a_file_that_was_deleted_while_one_waited_is_no_lock(path: Path) -> None:
    with held_by_another(path, seconds=0.1, then=path.unlink), locked(path, patience=60):
        assert path.exists()
        with pytest.raises(BlockingIOError), locked(path, patience=0):  # a third finds it held
            pass


def test_a_file_system_without_locks_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(path, patience=0) as is_held:
        assert not is_held
