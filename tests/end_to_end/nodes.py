"""A Ray cluster of a head without work and some nodes of one CPU, all on this machine, to be struck."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.end_to_end.command import ROOT
from tests.end_to_end.test_interruption import engines_of

_NODE: dict[str, Any] = {
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
}


class Nodes:
    """The head and ``count`` nodes; ``shutdown`` ends them."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(head_node_args={"num_cpus": 0, **_NODE}, initialize_head=True)
        self._nodes = [self._cluster.add_node(num_cpus=1, **_NODE) for _ in range(count)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def workers(self) -> list[list[int]]:
        """Give the processes of each node."""
        return [engines_of(_raylet(node)) for node in self._nodes]

    def strike(self, index: int) -> set[int]:
        """Kill the processes of a node as a power cut would, and give them; the cluster learns of it by itself."""
        raylet = _raylet(self._nodes[index])
        os.kill(raylet, signal.SIGSTOP)  # or it would start another worker meanwhile
        fallen = {raylet, *engines_of(raylet)}
        for pid in fallen:
            kill(pid)
        return fallen

    def remove(self, index: int) -> None:
        """Clear away what is left of a node that was struck, which takes seconds."""
        self._cluster.remove_node(self._nodes[index], allow_graceful=False)

    def dismiss(self, index: int) -> None:
        """End a node in good order, which its cluster hears of at once."""
        self._cluster.remove_node(self._nodes[index], allow_graceful=True)

    def replace(self, index: int) -> None:
        """Start another node in the place of one that is gone, and do not wait for it."""
        self._nodes[index] = self._cluster.add_node(num_cpus=1, wait=False, **_NODE)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextmanager
def cluster_of(count: int, patch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Start a cluster whose workers find these tests."""
    patch.setenv("PYTHONPATH", str(ROOT))
    for name, value in {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}.items():
        patch.setenv(name, value)
    nodes = Nodes(count)
    try:
        yield nodes
    finally:
        nodes.shutdown()


def kill(pid: int) -> None:
    """Kill a process that may be gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
