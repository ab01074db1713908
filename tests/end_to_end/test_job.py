"""The driver inside the cluster: ``ray job submit``. Skipped where Ray has no dashboard; ``charflow[cluster]`` has it.

What such a driver is given differs from an attached one by its environment alone, which test_nodes.py covers without.
"""

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.catalog import Catalog
from storage.commits import Ledger
from tests.end_to_end.command import ROOT, TINY
from tests.end_to_end.nodes import LOOPBACK

pytest.importorskip("aiohttp_cors", reason="Ray without its dashboard; pip install charflow[cluster]")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_server")]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in (LOOPBACK | {"PYTHONPATH": str(ROOT)}).items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "resources": {"simulator": 2},
            "node_ip_address": "127.0.0.1",
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": free_port(),
            "dashboard_agent_listen_port": free_port(),
            "object_store_memory": 80 * 2**20,
        },
    )
    try:
        yield cluster.head_node
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_job_that_is_submitted_runs_the_whole_road_in_the_cluster(head: Any, tmp_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    root = tmp_path / "runs"
    sets = [f"--set {change}" for change in (*TINY, "generator.workers=1", "compute.integrate.resources.simulator=1")]
    command = " ".join([sys.executable, "-m flows.cli run gaussian --ray auto --root", str(root), *sets])
    client = JobSubmissionClient(f"http://{head.webui_url}")
    state = {"XDG_STATE_HOME": str(tmp_path.parent / "state"), "CHARFLOW_LOG": "json"}
    job = client.submit_job(entrypoint=command, runtime_env={"env_vars": state})
    end = time.monotonic() + 200
    while not client.get_job_status(job).is_terminal() and time.monotonic() < end:
        time.sleep(0.5)
    assert str(client.get_job_status(job)) == "SUCCEEDED", client.get_job_logs(job)
    assert Catalog(root).get("gaussian").status == "finished"
    ledger = Ledger(root / "gaussian" / "trajectories.ledger")
    assert {commit.node for commit in ledger.read_many(sorted(ledger.committed()))} == {head.node_id}
