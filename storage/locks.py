"""Locks that go with their process: ``flock`` on a file beside what is worked on."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_TAKEN = (errno.EAGAIN, errno.EACCES)  # what a lock says that another process has
_LOOK_SECONDS = 0.02


@contextmanager
def locked(path: Path, *, patience: float) -> Iterator[bool]:
    """Hold a lock alone; gives whether it is held, which it is not on a file system without locks.

    The file stays, but whoever clears a folder away may delete it: then a lock on what was deleted is let go, and the
    one under the name is taken.

    Args:
        path: the lock's file, made where it is not there; its folder is.
        patience: seconds to wait for another process.

    Raises:
        BlockingIOError: another process has it, after so long.
    """
    until = time.monotonic() + patience
    while True:
        with path.open("a") as file:
            is_held = _take(file, until=until)
            if not is_held or _is_under(path, file):
                yield is_held
                return


def _take(file: IO[str], *, until: float) -> bool:
    """Take a lock; tell whether the file system has locks at all."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in _TAKEN:
                return False
            if time.monotonic() >= until:
                raise BlockingIOError(errno.EAGAIN, f"{file.name} is locked by another process") from None
        time.sleep(_LOOK_SECONDS)


def _is_under(path: Path, file: IO[str]) -> bool:
    """Tell whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
