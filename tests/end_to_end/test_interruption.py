"""Real kills of a real driver: what is committed stays, nothing strays, the next run ends with the same bytes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.blows import alive
from tests.end_to_end.command import TINY, charflow, charflow_json, integrate_here, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_server")]

CHANGES = (
    "dataset.count=500",
    "trajectories.count=2000",
    "trajectories.chunk_rows=100",
    "trajectories.sub_batch=1",  # slow enough to be caught in the middle
    "trajectories.steps=8",
)
CHUNKS = 20


def committed(root: Path) -> int:
    return len(list((root / "gaussian" / "trajectories.ledger" / "commits").glob("*.json")))


def chunk_files(store: Path) -> dict[str, bytes]:
    chunks = store / "x" / "c"
    return {str(path.relative_to(chunks)): path.read_bytes() for path in sorted(chunks.rglob("0")) if path.is_file()}


def chunk_bytes(root: Path) -> dict[str, bytes]:
    return chunk_files(root / "gaussian" / "trajectories.zarr")


def engines_of(driver: int) -> list[int]:
    """Give the processes below a driver; they may outlive it, so ask while it lives."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in table.splitlines())}
    found, frontier = [], [driver]
    while frontier:
        frontier = [pid for pid, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed") / "runs"
    assert integrate_here(root, changes=CHANGES)["simulated"] == CHUNKS
    return chunk_bytes(root)


def test_a_driver_stopped_twice_in_the_middle_of_integrate(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    root = tmp_path / "runs"
    kept = stop(root, signal.SIGINT, at=3)
    shown = charflow_json("show", "gaussian", root=root)
    assert shown["status"] == "interrupted"
    assert shown["progress"]["step"] == "integrate"
    assert shown["progress"]["chunks"] == {"committed": kept, "chunks": CHUNKS}
    records = {path: path.read_bytes() for path in (root / "gaussian" / "trajectories.ledger" / "commits").iterdir()}
    kept = stop(root, signal.SIGKILL, at=kept + 4)  # the same command went on from there
    assert all(path.read_bytes() == content for path, content in records.items())
    assert integrate_here(root, changes=CHANGES)["simulated"] == CHUNKS - kept
    assert chunk_bytes(root) == undisturbed


def stop(root: Path, blow: signal.Signals, *, at: int) -> int:
    """Start the whole command, stop it once so many chunks are committed, and give how many are in the end."""
    driver = start("run", "gaussian", "--until", "integrate", root=root, changes=CHANGES)
    assert wait_until(lambda: committed(root) >= at, seconds=120), driver.communicate(timeout=10)
    below = engines_of(driver.pid)
    os.kill(driver.pid, blow)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == (-signal.SIGKILL if blow == signal.SIGKILL else 130), (out, err)
    assert "Traceback" not in err
    assert wait_until(lambda: not any(map(alive, below)), seconds=20), [pid for pid in below if alive(pid)]
    found = committed(root)
    assert at <= found < CHUNKS
    return found


def test_a_driver_asked_to_end_in_the_middle_of_a_training_keeps_its_checkpoint(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    changes = (
        *TINY,
        "velocity.kind=network",
        "velocity.steps=6000",
        "velocity.batch_size=128",
        "velocity.network.width=32",
    )
    driver = start("run", "gaussian", root=root, changes=changes)
    checkpoints = "gaussian/velocity/checkpoints/*/step-*.json"
    assert wait_until(lambda: any(root.glob(checkpoints)), seconds=200), driver.communicate(timeout=10)
    _, told = charflow("run", "gaussian", root=root, changes=changes, code=1)
    assert told.count("\n") == 1
    assert f"run 'gaussian' is being worked on by process {driver.pid}" in told
    shown = charflow_json("show", "gaussian", root=root)["progress"]
    assert (shown["step"], shown["total"], shown["chunks"]) == ("fit_velocity", 6000, None)
    assert shown["age_seconds"] < 60
    below = engines_of(driver.pid)
    os.kill(driver.pid, signal.SIGTERM)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, (out, err)
    assert err.count("interrupted; everything committed is kept") == 1
    assert "Traceback" not in err
    assert wait_until(lambda: not any(map(alive, below)), seconds=20), [pid for pid in below if alive(pid)]
    assert charflow_json("show", "gaussian", root=root)["status"] == "interrupted"
    assert any(root.glob(checkpoints))
