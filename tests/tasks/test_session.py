"""The session with a cluster: loopback, addresses that do not answer, signal handlers, code that is brought along.

What a cluster leaves behind that is lost at work is told in our words.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from storage.errors import StorageError
from tasks.capacity import LostNodesError
from tasks.executor import RayExecutor
from tasks.flight import _get
from tasks.session import (
    LostClusterError,
    UnreachableClusterError,
    _leave,
    cluster_nodes,
    own_code,
    require_cluster,
    require_reachable,
)
from tasks.training.ddp import _run
from tasks.training.guard import Guard
from tests.rays import import_ray
from tests.tasks.conftest import our_handler


def test_a_session_is_a_cluster_of_its_own_on_loopback(cluster: RayExecutor) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    assert ray.cluster_resources()["CPU"] == 2  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_a_session_leaves_the_signal_handlers_as_it_found_them(cluster: RayExecutor) -> None:
    assert signal.getsignal(signal.SIGTERM) is our_handler
    assert list(cluster.map(abs, [-2])) == [2]
    assert signal.getsignal(signal.SIGTERM) is our_handler


def test_an_address_where_nothing_answers_is_refused_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(UnreachableClusterError, match=rf"compute\.address '127\.0\.0\.1:{port}' does not answer"):
        require_reachable(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 6


def test_leaving_a_cluster_tells_nothing_of_the_tasks_that_end_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    news = [
        "[2026-11-27 05:21:03,774 E 26445 26619] task_manager.cc:1545: Failed to push error to driver for task 1631",
        "a bar of another thread",
        "[2026-11-27 05:21:03,775 F 26445 26619] task_manager.cc:1545: Check failed: it.second",
        "the last",
    ]

    class Closing:
        def shutdown(self) -> None:
            os.write(2, "\n".join(news).encode())
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        _leave(Closing())
    os.write(2, b", and on")
    assert capfd.readouterr().err == "\n".join(news[1:]) + ", and on"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["a page", "nothing"])
def test_a_port_where_something_else_answers_is_refused_within_seconds(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.session._CONNECT_SECONDS", 0.5)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        accepted: list[socket.socket] = []  # kept open
        answering = threading.Thread(target=lambda: accepted.append(_answered(server, answer)))
        answering.start()
        with pytest.raises(
            UnreachableClusterError, match=rf"'127\.0\.0\.1:{port}' is no Ray cluster's: something else"
        ):
            require_reachable(f"127.0.0.1:{port}")
        answering.join()
    assert time.monotonic() - began < 6
    accepted[0].close()


def _answered(server: socket.socket, answer: bytes) -> socket.socket:
    connection, _ = server.accept()
    connection.recv(100)
    connection.sendall(answer)
    return connection


@pytest.mark.slow
def test_the_port_of_a_cluster_is_taken(cluster: RayExecutor) -> None:
    import ray

    require_reachable(ray.get_runtime_context().gcs_address)


@pytest.mark.parametrize("address", ["nowhere", "host:port", ":6379"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UnreachableClusterError, match="must be host:port"):
        require_reachable(address)


def test_a_job_that_brings_its_own_code_is_not_given_ours_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``ray job submit`` hands to the driver that it starts."""
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    ours = own_code()
    assert [Path(path).name for path in ours["py_modules"]] == ["tasks", "storage"]
    for environment in ("{}", '{"working_dir": "gcs://x.zip", "env_vars": {"A": "1"}}', "null"):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", f'{{"runtime_env": {environment}, "metadata": {{}}}}')
        assert own_code() == ours
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"py_modules": ["gcs://x.zip"]}}')
    assert own_code() == {}


@dataclass
class Beside:
    """Stands for Ray's idea of the node that this process is beside."""

    gcs_address: str
    raylet_socket_name: str


@pytest.fixture
def beside(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, socket.socket]]:
    """Give the sockets of a head and of a node that live; whoever closes one ends it."""
    import_ray()
    from ray._private import worker

    path = tmp_path_factory.mktemp("ray") / "raylet"
    node = socket.socket(socket.AF_UNIX)
    node.bind(str(path))
    node.listen()
    head = socket.create_server(("127.0.0.1", 0))
    found = Beside(gcs_address=f"127.0.0.1:{head.getsockname()[1]}", raylet_socket_name=str(path))
    monkeypatch.setattr(worker.global_worker, "node", found)
    with node, head:
        yield {"node": node, "head": head}


@pytest.mark.parametrize(
    ("ended", "kind", "words"),
    [
        ("", "LocalRayletDiedError", "the node beside this process ended"),
        ("node", "RayError", "the node beside this process ended"),
        ("head", "RayError", r"its head at 127\.0\.0\.1:\d+ does not answer"),
    ],
)
def test_a_cluster_that_is_gone_is_told_in_our_words_whatever_ray_says(
    ended: str, kind: str, words: str, beside: dict[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    error = getattr(ray.exceptions, kind)()
    if ended:
        beside[ended].close()

    def lost(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", lost)
    monkeypatch.setattr(ray, "nodes", lost)
    kept = "what is committed is kept, and once there is a cluster the same command goes on from there"
    told = rf"^the Ray cluster is gone, {words}; {kept}$"
    for ask in (partial(_get, "reference"), cluster_nodes, partial(_run, Trainer(error), Guarding())):
        with pytest.raises(LostClusterError, match=told) as caught:
            ask()
        assert caught.value.__context__ is error  # Ray's own words, for the account
        assert isinstance(caught.value, StorageError)  # one line, and not tried again


def test_workers_that_a_lost_cluster_took_along_are_told_as_its_loss(beside: dict[str, socket.socket]) -> None:
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError

    beside["head"].close()
    with pytest.raises(LostClusterError, match="its head at"):
        _run(Trainer(WorkerGroupError("2 workers failed", {0: ActorDiedError(), 1: ActorDiedError()})), Guarding())


def test_an_error_of_a_cluster_that_is_there_stays_what_it_is(
    beside: dict[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import RayError

    error = RayError("who knows")
    require_cluster(error)
    with pytest.raises(RayError) as caught:
        _run(Trainer(error), Guarding())
    assert caught.value is error


def test_a_training_that_was_given_up_says_why_though_the_cluster_is_gone(beside: dict[str, socket.socket]) -> None:
    from ray.exceptions import ActorDiedError

    beside["head"].close()
    with pytest.raises(LostNodesError, match="for want of room"):
        _run(Trainer(ActorDiedError()), Guarding(LostNodesError("for want of room")))


class Trainer:
    """Fails at once."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def fit(self) -> None:
        raise self.error


class Guarding(Guard):
    """Found something, or nothing."""

    def __init__(self, error: LostNodesError | None = None) -> None:
        self.error = error
