"""The session with a cluster: loopback, addresses that do not answer, signal handlers, code that is brought along."""

import signal
import socket
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
