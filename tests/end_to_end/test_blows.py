"""Drivers, workers and whole nodes killed at random while a store is simulated on a cluster of three nodes.

After each blow the ledger says which solutions were lost: those of the dead whose chunk has no record. In the end the
bytes are those of an undisturbed run, and just the lost solutions were made twice. ``CHARFLOW_BLOWS=20`` strikes twenty
times.
"""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.commits import Ledger
from storage.paths import ledger_path
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.integrate import IntegrateRequest, integrate
from tasks.specs import TrajectoriesSpec
from tests.end_to_end.blows import alive, read_log
from tests.end_to_end.command import ROOT
from tests.end_to_end.test_interruption import chunk_files, engines_of, wait_until
from tests.local import on_disk
from tests.tasks.test_integrate import request_of

pytestmark = pytest.mark.slow

BLOWS = int(os.environ.get("CHARFLOW_BLOWS", "3"))
CHUNKS = 12 * BLOWS
_NODE: dict[str, Any] = {
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
}
SPEC = TrajectoriesSpec(count=64 * CHUNKS, steps=8, chunk_rows=64)


class Nodes:
    """A head without work and three nodes of one CPU."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(head_node_args={"num_cpus": 0, **_NODE}, initialize_head=True)
        self._nodes = [self._cluster.add_node(num_cpus=1, **_NODE) for _ in range(3)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def workers(self) -> list[list[int]]:
        """Give the processes of each node."""
        return [engines_of(self._raylet(node)) for node in self._nodes]

    def kill(self, index: int) -> set[int]:
        """Kill a node as a power cut would, start another in its place, and give the processes that fell."""
        node = self._nodes[index]
        raylet = self._raylet(node)
        os.kill(raylet, signal.SIGSTOP)  # or it would start another worker meanwhile
        fallen = {raylet, *engines_of(raylet)}
        for pid in fallen:
            kill(pid)
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes[index] = self._cluster.add_node(num_cpus=1, wait=False, **_NODE)
        return fallen

    def shutdown(self) -> None:
        self._cluster.shutdown()

    @staticmethod
    def _raylet(node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, value in {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    found = Nodes()
    yield found
    found.shutdown()


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
    assert "(raylet)" in err
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
                self._count(self._nodes.kill(self.random.choice(self._busy_nodes())))
            case _:
                kill(self.driver.pid)
                self.driver.communicate()
                time.sleep(1.0)  # its workers end soon after it, and some begin something until then
                self._count(self._solvers() - self._fallen)
                self.kept = len(self._committed())
                self.driver = self._start()

    def _busy_nodes(self) -> list[int]:
        return [k for k, workers in enumerate(self._nodes.workers()) if self._solvers() & {*workers}]

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
