"""The session with a cluster: loopback, addresses that do not answer, signal handlers, code that is brought along."""

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tasks.executor import RayExecutor
from tasks.session import UnreachableClusterError, own_code, require_reachable
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
