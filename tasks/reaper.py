"""Ends the processes of a Ray session whose driver was killed; standard library only, run as a program of its own.

Ray's own processes end with their driver, but two of its agents linger for half a minute after a SIGKILL. Started as
``python reaper.py`` with the pids to watch as arguments, this waits until its parent is gone or its input is closed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.5


@contextmanager
def reaping() -> Iterator[int]:
    """Let every process that is below this one now be killed if this one is; does nothing where there is no /proc.

    Gives the number of the process that watches, which ends on leaving; 0 where there is none.
    """
    below = descendants(os.getpid())
    if not below:
        yield 0
        return
    watcher = subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, str(os.getpid()), *map(str, below)],
        stdin=subprocess.DEVNULL,
        process_group=0,  # a Ctrl-C on the terminal is not for it
    )
    try:
        yield watcher.pid
    finally:
        watcher.kill()
        watcher.wait()


def descendants(pid: int) -> list[int]:
    """Give the processes below ``pid``, as far as /proc tells."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue  # it ended meanwhile
    found: list[int] = []
    frontier = {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found


def started(pid: int) -> str:
    """Give when a process started, so that another one that took over its number is told apart; empty once it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def birth_certificates(pids: Iterable[int]) -> dict[int, str]:
    """Give when each process started, by its number."""
    return {pid: started(pid) for pid in pids}


def kill_all(births: Mapping[int, str], *, patience: float) -> None:
    """Kill those of the processes that have not ended by themselves after ``patience`` seconds."""
    end = time.monotonic() + patience
    left = dict(births)
    while left and time.monotonic() < end:
        left = {pid: birth for pid, birth in left.items() if birth and started(pid) == birth}
        time.sleep(POLL_SECONDS / 10)
    for pid, birth in left.items():
        if birth and started(pid) == birth:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # it ended meanwhile, or is not ours


def _watch(driver: int, watched: list[int]) -> None:
    births = birth_certificates(watched)
    while os.getppid() == driver:
        time.sleep(POLL_SECONDS)
    kill_all(births, patience=0.0)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), [int(argument) for argument in sys.argv[2:]])
