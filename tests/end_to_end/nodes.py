"""A Ray cluster of a head without work and some nodes of one CPU, all on this machine, to be struck.

Nodes may have resources of their own. All are one host of one address, so only their ids tell them apart.
"""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.end_to_end.command import ROOT
from tests.end_to_end.test_interruption import engines_of

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
_NODE: dict[str, Any] = {
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
}


class Nodes:
    """The head and a node for each of ``resources``, what it has beside a CPU; ``shutdown`` ends them."""

    def __init__(self, resources: Sequence[Mapping[str, float]]) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(head_node_args={"num_cpus": 0, **_NODE}, initialize_head=True)
        self._nodes = [self._cluster.add_node(num_cpus=1, resources=dict(has), **_NODE) for has in resources]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def ids(self) -> list[str]:
        """Ray's ids of the nodes."""
        return [str(node.node_id) for node in self._nodes]

    def workers(self) -> list[list[int]]:
        """Give the processes of each node; none of one that is gone."""
        return [engines_of(_raylet(node)) if "raylet" in node.all_processes else [] for node in self._nodes]

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
    """Start a cluster of so many nodes that are alike, whose workers find these tests."""
    with cluster_with([{}] * count, patch) as nodes:
        yield nodes


@contextmanager
def cluster_with(resources: Sequence[Mapping[str, float]], patch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Start a cluster of nodes that have so much, whose workers find these tests."""
    patch.setenv("PYTHONPATH", str(ROOT))
    for name, value in LOOPBACK.items():
        patch.setenv(name, value)
    nodes = Nodes(resources)
    try:
        yield nodes
    finally:
        nodes.shutdown()


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill a process that may be gone, or send it another signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
