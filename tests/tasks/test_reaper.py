"""Processes below this one: found, told apart from later ones of the same number, and ended."""

import os
import signal
import subprocess
import sys
import time

from tasks.reaper import birth_certificates, descendants, kill_all, started

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
# A driver that starts a child, lets it be reaped, says its number, and waits.
DRIVER = f"""
import subprocess, sys, time
from tasks.reaper import reaping
child = subprocess.Popen({SLEEPER!r}, start_new_session=True)
with reaping():
    print(child.pid, flush=True)
    time.sleep(60)
"""


def ended(pid: int, *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while started(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not started(pid)


def test_children_and_theirs_are_found() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", f"import subprocess; subprocess.run({SLEEPER!r})"])
    try:
        end = time.monotonic() + 10
        while len(descendants(child.pid)) < 1 and time.monotonic() < end:
            time.sleep(0.05)
        grandchild = descendants(child.pid)[0]
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
        os.kill(grandchild, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


def test_what_does_not_end_by_itself_is_killed_and_a_reused_number_is_not() -> None:
    child = subprocess.Popen(SLEEPER)
    kill_all({child.pid: "another birth"}, patience=0.0)
    assert child.poll() is None
    kill_all(birth_certificates([child.pid]), patience=0.1)
    assert child.wait(timeout=5) == -signal.SIGKILL


def test_a_killed_driver_takes_its_children_along() -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    child = int(driver.stdout.readline())
    assert started(child)
    time.sleep(0.3)  # the watcher notes births when it starts
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert ended(child, seconds=5)
