"""Drivers, workers and whole nodes killed at random while a store is simulated on a cluster of three nodes.

After each blow the ledger says which solutions were lost: those of the dead whose chunk has no record. In the end the
bytes are those of an undisturbed run, and just the lost solutions were made twice. ``CHARFLOW_BLOWS=20`` strikes twenty
times.
"""

import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from storage.commits import Ledger
from storage.paths import ledger_path
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.integrate import IntegrateRequest, integrate
from tasks.specs import TrajectoriesSpec
from tests.end_to_end.blows import alive, read_log
from tests.end_to_end.command import ROOT
from tests.end_to_end.nodes import Nodes, cluster_of, kill
from tests.end_to_end.test_interruption import chunk_files, wait_until
from tests.local import on_disk
from tests.tasks.test_integrate import request_of

pytestmark = pytest.mark.slow

BLOWS = int(os.environ.get("CHARFLOW_BLOWS", "3"))
CHUNKS = 12 * BLOWS
QUIET_SECONDS = 3.0  # longer than a worker takes to begin its first chunk, or to end with its driver
SPEC = TrajectoriesSpec(count=64 * CHUNKS, steps=8, chunk_rows=64)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    with cluster_of(3, monkeypatch) as found:
        yield found


def test_blows_at_random_lose_just_what_the_ledger_says(nodes: Nodes, tmp_path: Path) -> None:
    whole = request_of(tmp_path, spec=SPEC)
    integrate(whole, executor=SerialExecutor(), progress=lambda *_: None)
    request = replace(whole, store=tmp_path / "struck" / "trajectories.zarr")
    battle = Battle(nodes, request, tmp_path)
    blows = [("worker", "node", "driver")[k % 3] for k in range(BLOWS)]
    battle.random.shuffle(blows)
    try:
        for blow in blows:
            battle.strike(blow)
        out, err = battle.driver.communicate(timeout=120)
    finally:
        battle.driver.kill()
    assert battle.driver.returncode == 0, err
    assert out == f"{CHUNKS - battle.kept}\n"  # and not a word of Ray's
    solutions = read_log(request.store)
    assert not any(solution.is_needless for solution in solutions)
    assert len(solutions) == CHUNKS + battle.lost
    assert chunk_files(on_disk(request.store)) == chunk_files(on_disk(whole.store))
    assert TrajectoryStore.open(request.store).verify(rows=SPEC.count).bad == ()


class Battle:
    """A driver at work, and what the blows so far have cost by the ledger's account."""

    def __init__(self, nodes: Nodes, request: IntegrateRequest, folder: Path) -> None:
        self.random = random.Random(0)
        self.lost = 0
        self._fallen: set[int] = set()
        self.kept = 0  # chunks that had a record when the present driver began
        self._nodes = nodes
        self._store = request.store
        self._request = folder / "request"
        self._request.write_bytes(pickle.dumps(request))
        self.driver = self._start()

    def strike(self, blow: str) -> None:
        """Kill something a little after some more chunks were committed, and count the solutions that are lost."""
        goal = len(self._committed()) + self.random.randint(1, 8)
        assert wait_until(lambda: len(self._committed()) >= goal, seconds=60), self.driver.communicate(timeout=5)
        time.sleep(self.random.uniform(0, 0.4))
        match blow:
            case "worker":
                pid = self.random.choice(sorted(filter(alive, self._solvers())))
                kill(pid)
                self._count({pid})
            case "node":
                index = self.random.choice(self._busy_nodes())
                self._count(self._nodes.strike(index))  # at once, before others have made the lost chunks anew
                self._nodes.remove(index)
                self._nodes.replace(index)
            case _:
                kill(self.driver.pid)
                self.driver.communicate()
                self._await_quiet()  # its workers end soon after it, and some begin something until then
                self._count(self._solvers() - self._fallen)
                self.kept = len(self._committed())
                self.driver = self._start()

    def _busy_nodes(self) -> list[int]:
        return [k for k, workers in enumerate(self._nodes.workers()) if self._solvers() & {*workers}]

    def _await_quiet(self) -> None:
        """Wait until no solver has lived for some seconds."""
        last = time.monotonic()

        def is_quiet() -> bool:
            nonlocal last
            if any(map(alive, self._solvers() - self._fallen)):
                last = time.monotonic()
            return time.monotonic() > last + QUIET_SECONDS

        assert wait_until(is_quiet, seconds=60)

    def _solvers(self) -> set[int]:
        return {solution.pid for solution in read_log(self._store)}

    def _count(self, fallen: set[int]) -> None:
        """Wait until these are gone, and count what each was solving last, unless that has a record."""
        assert wait_until(lambda: not any(map(alive, fallen)), seconds=30)
        last = {solution.pid: solution.chunk for solution in read_log(self._store)}
        self.lost += sum(last[pid] not in self._committed() for pid in fallen & {*last})
        self._fallen |= fallen

    def _committed(self) -> set[int]:
        return Ledger(ledger_path(self._store)).committed()

    def _start(self) -> "subprocess.Popen[str]":
        words = ["-m", "tests.end_to_end.blows", self._nodes.address, str(self._request)]
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
