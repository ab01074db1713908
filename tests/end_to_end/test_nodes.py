"""A cluster whose nodes differ: simulate here, train there. Nodes are lost in both steps, and the run says which.

All nodes are one host here, so a chunk's record tells them apart by the id of the node that made it, and the trainer's
node is the one below whose raylet its process runs.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.config import load_config
from flows.runs import open_run
from flows.work import perform
from storage.catalog import Catalog
from storage.commits import Ledger
from tasks import capacity
from tasks.capacity import LostNodesError
from tasks.executor import RayExecutor, SerialExecutor, ray_session
from tasks.facts import TrainingPlace
from tasks.specs import ComputeSpec, Demand, ResourcesSpec
from tasks.training.ddp import Outcome, run_distributed
from tasks.training.device import CPU
from tasks.training.group import Group, alone
from tests.end_to_end.command import TINY, charflow, charflow_json, start
from tests.end_to_end.nodes import Nodes, cluster_with, kill
from tests.end_to_end.test_interruption import chunk_bytes, committed, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_server")]

BOTH, SIMULATOR, TRAINER = 0, 1, 2
RESOURCES = ({"simulator": 1, "trainer": 1}, {"simulator": 1}, {"trainer": 1})
PLACES = ("compute.integrate.resources.simulator=1", "compute.train_generator.resources.trainer=1")
CHUNKS = 24
CHANGES = (
    *TINY,
    *PLACES,
    "compute.placement=spread",
    "trajectories.count=2400",
    "trajectories.chunk_rows=100",
    "trajectories.sub_batch=1",  # slow enough to be struck in the middle
    "generator.steps=6000",
    "generator.workers=1",
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch, cluster_with(RESOURCES, patch) as found:
        yield found


def record_of(root: Path) -> dict[str, Any]:
    return charflow_json("show", "gaussian", root=root)


def test_what_no_node_has_is_bad_input_before_the_first_step(tmp_path: Path, nodes: Nodes) -> None:
    """The driver is one that Ray's job manager started, by all that it can tell: its environment."""
    root = tmp_path / "runs"
    changes = (*CHANGES, "compute.integrate.resources.quantum=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", nodes.address)
        job = {"runtime_env": {"env_vars": {"OF": "the job"}}, "metadata": {"job_submission_id": "raysubmit_1"}}
        patch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
        _, err = charflow("run", "gaussian", "--ray", "auto", root=root, changes=changes, code=2)
    words = "compute.integrate.resources.quantum = 1 cannot be served: no resource quantum; the cluster has"
    (line,) = [line for line in err.splitlines() if "cluster has" in line]
    assert line.startswith(f"charflow: {words}")
    assert "1 node with CPU 1, simulator 1, trainer 1" in line
    record = Catalog(root).get("gaussian")
    assert (record.status, dict(record.steps)) == ("failed", {})
    assert words in record.error


def told_environment(_: int) -> tuple[str | None, int]:
    import ray

    found: dict[str, Any] = ray.get_runtime_context().runtime_env
    return os.environ.get("OF"), len(found.get("py_modules", []))


def test_a_driver_that_a_job_started_joins_its_cluster_and_brings_code_beside_the_jobs_environment(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    job = {"runtime_env": {"env_vars": {"OF": "the job"}}, "metadata": {"job_submission_id": "raysubmit_2"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    with ray_session(ComputeSpec(address="auto")) as executor:
        assert {node.id for node in executor.nodes} >= {*nodes.ids}
        ((of, packages),) = executor.map(told_environment, [1])
    assert (of, packages) == ("the job", 2)  # tasks and storage


def test_nodes_that_differ_lose_two_of_them_and_the_run_ends_with_the_same_bytes(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = undisturbed(tmp_path / "whole" / "runs", monkeypatch)
    root = tmp_path / "runs"
    driver = start("run", "gaussian", "--ray", nodes.address, root=root, changes=CHANGES)
    try:
        simulators = {nodes.ids[BOTH], nodes.ids[SIMULATOR]}
        assert wait_until(lambda: makers(root) == simulators, seconds=120), driver.communicate(timeout=10)
        assert committed(root) < CHUNKS
        assert wait_until(lambda: is_caught(nodes, SIMULATOR, "ray::simulate_chunk"), seconds=60)
        simulator = strike(nodes, SIMULATOR)
        assert wait_until(lambda: any(root.glob("gaussian/generator/checkpoints/*/step-*.json")), seconds=200)
        trainer = strike(nodes, next(k for k in (BOTH, TRAINER) if works(nodes, k, "RayTrainWorker")))
        out, err = driver.communicate(timeout=240)
    finally:
        driver.kill()
    assert driver.returncode == 0, err
    assert chunk_bytes(root) == chunk_bytes(tmp_path / "whole" / "runs")
    found = record_of(root)
    assert found["steps"]["train_generator"]["summary"]["digest"] == digest

    assert committed(root) == CHUNKS
    assert makers(root) == simulators

    steps = {step: stage["summary"] for step, stage in found["steps"].items()}
    fallen = [node for summary in steps.values() for node in summary.get("nodes_lost", ())]  # once noticed, in any step
    assert sorted(fallen) == sorted(f"127.0.0.1 ({node[:8]})" for node in (simulator, trainer))
    assert steps["integrate"]["again"]
    assert steps["train_generator"]["restarts"] == 1
    shown, _ = charflow("show", "gaussian", root=root)
    for text in (out, shown):
        assert all(node in text for node in fallen), text
        assert "to one more worker (" in text
        assert "started its workers again once, from the newest checkpoint" in text
    for node in (simulator, trainer):
        assert f"node 127.0.0.1 ({node[:8]}) was lost" in err
    assert "training starts again from its newest checkpoint" in err


def makers(root: Path) -> set[str]:
    """Give the nodes that committed chunks so far."""
    ledger = Ledger(root / "gaussian" / "trajectories.ledger")
    missing = set(ledger.missing(CHUNKS)) if committed(root) else set(range(CHUNKS))
    return {commit.node for commit in ledger.read_many([k for k in range(CHUNKS) if k not in missing])}


def undisturbed(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bring the run to its generator in this process, and give that one's digest."""

    def train(worker: Any, request: Any, **_: object) -> Outcome:
        worker(request, alone(CPU))
        return Outcome()

    monkeypatch.setattr("tasks.train_generator.train_on_cluster", train)
    config = load_config("gaussian", changes=CHANGES)
    run = open_run(config, root=root, name="", source="gaussian", until="train_generator")
    with run.in_progress():
        for step in run.pending:
            perform(step, run, SerialExecutor(), progress=lambda *_: None)
    return str(run.record.steps["train_generator"].summary["digest"])


def strike(nodes: Nodes, index: int) -> str:
    """Kill a node, clear away what is left of it, and give its id."""
    nodes.strike(index)
    nodes.remove(index)
    return nodes.ids[index]


def is_caught(nodes: Nodes, index: int, title: str) -> bool:
    """Stop a node's processes if one is at work under that title, so that it is struck in the middle of it."""
    below = nodes.workers()[index]
    for pid in below:
        kill(pid, signal.SIGSTOP)
    if works(nodes, index, title):
        return True
    for pid in below:
        kill(pid, signal.SIGCONT)
    return False


def works(nodes: Nodes, index: int, title: str) -> bool:
    """Tell whether a process of that title lives below a node's raylet."""
    below = ",".join(map(str, nodes.workers()[index])) or "0"
    listed = subprocess.run(["ps", "-o", "args=", "-p", below], capture_output=True, text=True, check=False).stdout
    return title in listed


def wait_a_second(item: int) -> int:
    time.sleep(1.0)
    return item


def train_for_ever(request: None, group: Group) -> None:
    time.sleep(600)


def in_vain(resource: str, step: str) -> Demand:
    return Demand(step=step, asked=ResourcesSpec(resources={resource: 1}))


def simulate_in_vain(executor: RayExecutor, demand: Demand, _: Path) -> None:
    list(executor.given(demand).map(wait_a_second, range(40)))


def train_in_vain(_: RayExecutor, demand: Demand, folder: Path) -> None:
    place = TrainingPlace(folder=folder / "generator", key="k")
    told: dict[str, Any] = {"steps": 1, "progress": lambda *_: None, "what": "generator.workers"}
    run_distributed(train_for_ever, None, workers=1, place=place, demand=demand, **told)


@pytest.mark.parametrize(
    ("step", "work"),
    [("integrate", simulate_in_vain), ("train_generator", train_in_vain)],
    ids=["integrate", "train_generator"],
)
def test_a_step_whose_last_node_is_lost_ends_with_a_word_and_does_not_wait_for_ever(
    step: str,
    work: Callable[[RayExecutor, Demand, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capacity, "GRACE_SECONDS", 4.0)
    demand, before = in_vain("rare", step), signal.getsignal(signal.SIGINT)
    words = (
        rf"not replaced for \d+ s: compute\.{step}\.\w+.* cannot be served: no .*the same command goes on from there"
    )
    with cluster_with([{"rare": 1}], monkeypatch) as nodes, ray_session(ComputeSpec(address=nodes.address)) as executor:
        blow = threading.Thread(target=strike_when_busy, args=(nodes,))
        blow.start()
        with pytest.raises(LostNodesError, match=words):
            work(executor, demand, tmp_path)
        blow.join()
    assert signal.getsignal(signal.SIGINT) is before


def strike_when_busy(nodes: Nodes) -> None:
    """Strike the only node once it works."""
    assert wait_until(lambda: works(nodes, 0, "RayTrainWorker") or works(nodes, 0, "ray::wait_a_second"), seconds=60)
    time.sleep(2.0)
    nodes.strike(0)
