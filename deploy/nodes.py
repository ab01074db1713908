"""A Ray cluster on this machine alone: a head that gives no CPU to work, and nodes of one CPU each; Ctrl-C ends it.

``ray start`` cannot do this on loopback: without ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`` Ray listens on every interface
whatever address it is given, and with it the command refuses a second node.
"""

import argparse
import os
import signal
import threading
from typing import Any

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
NODE: dict[str, Any] = {
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 100 * 2**20,  # chunks do not pass through it
}


def main() -> None:
    """Start the nodes, say where they are, and wait to be ended."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0] if __doc__ else "")
    parser.add_argument("count", type=int, help="number of nodes beside the head")
    parser.add_argument("--port", type=int, default=6379, help="of the head, on 127.0.0.1")
    options = parser.parse_args()
    ended = threading.Event()
    os.environ.update(LOOPBACK)  # before Ray is imported, which reads them
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "gcs_server_port": options.port, **NODE})
    try:
        for _ in range(options.count):
            cluster.add_node(num_cpus=1, **NODE)
        for number in (signal.SIGINT, signal.SIGTERM):  # each node took them as it started
            signal.signal(number, lambda *_: ended.set())
        print(f"{options.count} nodes and a head: --ray {cluster.address}", flush=True)  # noqa: T201
        ended.wait()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
